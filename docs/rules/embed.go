// Package rules has the ready sets of rules, which are documents and part of the program: what
// "include: zos" names is the file zos.yaml beside this one.
package rules

import "embed"

// Files are the ready sets, each NAME.yaml with a list of rules.
//
//go:embed *.yaml
var Files embed.FS

// Sets lists the names of the ready sets.
func Sets() []string { return []string{"zos", "linux", "hmc"} }
