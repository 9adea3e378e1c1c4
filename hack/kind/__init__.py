"""A kind cluster whose nodes run real kubelets, made where no image registry can be reached as well as where one can.

For development and tests: everything in its nodes is built from Go modules and Debian's packages. Nothing of it
is needed where the operator runs in production.
"""
