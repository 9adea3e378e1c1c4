"""A kubelet's side of the device plugin API: real gRPC servers on real sockets, and the rules that 1.37 has.

kubelet   FakeKubelet: takes registrations, dials back, holds streams, asks Allocate, tells who holds what
running   Running: the whole service in this process, its log, its HTTP; options(): how tests run it
"""
