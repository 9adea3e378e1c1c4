"""The kubelet's two APIs that matter to a device plugin, as .proto files of our own, and the stubs made of them.

`python -m deviceplugin.api --write` makes the stubs anew, `--check` fails where they are not what the .proto
files say (`make generated` asks for that). The numbers and names are Kubernetes' (k8s.io/kubelet, v1.37.2).
"""
