// Package api holds the public contract: the OpenAPI document and the behaviour rules as served and tested by this
// version, and the JSON shapes of its bodies. It has no behaviour.
package api

import _ "embed"

// OpenAPI is the contract document, served at /openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
