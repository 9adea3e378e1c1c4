"""A fake NVIDIA (and Rebellions) device plugin: GPUs for real kubelets where there are none, to be failed at will.

For development and tests, here and elsewhere: README.md beside this file tells how to run it by itself. The kubelet
cannot tell it from a vendor's plugin; containers get the vendor's environment and no device. Of the operator it
knows nothing.

profiles, devices   what a server has, as values
stock               the devices now, and who waits for a change
log                 one JSON line for each call and each change
plugin              what the kubelet calls
registration        sockets of its own, and being known to the kubelet
podresources        which pod holds which device
metrics             what DCGM's exporter and Rebellions' would say
node                the labels that feature discovery would set
control, cli        how people and tests make it fail
service             all of it, started and stopped
"""
