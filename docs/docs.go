// Package docs has some of the documents as part of the program. Their words are public, so that
// they may stay in what is given away.
package docs

import "embed"

// Files are the documents.
//
//go:embed configuration.md events.md metrics.md openapi.yaml severity.md troubleshooting.md
var Files embed.FS
