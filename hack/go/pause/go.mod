module gpugrant.io/hack/go/pause

go 1.26.0
