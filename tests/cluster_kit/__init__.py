"""What tests against a real API server share: namespaces, servers, users and pods under unique names."""
