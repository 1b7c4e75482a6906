// Package docs has the documents as part of the program. Their words are public, so that they may
// stay in what is given away.
package docs

import "embed"

// Files are the documents.
//
//go:embed *.md openapi.yaml
var Files embed.FS
