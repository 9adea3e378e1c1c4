"""What the tests on real kubelets are made of: the operator as its chart installs it, its database, its servers."""
