package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"text/template"
	"text/template/parse"
)

// maxSteps bounds the work of one execution: nodes of the template gone through, and text made.
const maxSteps = 200_000

const (
	// The functions that prepare puts into a template, which cannot name them itself: they are
	// not there when it is parsed.
	stepFunction = "_step"
	textFunction = "_text"
)

func (r *run) instrumentation() template.FuncMap {
	return template.FuncMap{
		stepFunction: func(n int) (string, error) { return "", r.spend(n) },
		textFunction: func(line int, v any) string {
			r.origins = append(r.origins, origin{r.out.Len(), line})
			return text(v)
		},
	}
}

// spend subtracts n steps from those that are left.
func (r *run) spend(n int) error {
	if r.left -= n; r.left < 0 {
		return errSteps
	}
	return nil
}

// prepare changes the parsed templates, as html/template does to escape: each value is written by
// the function text, and each template and each turn of a loop counts the steps in it. It refuses
// templates that call themselves.
func prepare(root *template.Template) error {
	calls := map[string][]*parse.TemplateNode{}
	for _, t := range root.Templates() {
		if t.Tree == nil || t.Root == nil {
			continue
		}
		p := &preparation{lines: t.Tree}
		p.counted(t.Root)
		calls[t.Name()] = p.calls
	}
	for _, from := range slices.Sorted(maps.Keys(calls)) {
		for _, call := range calls[from] {
			if _, ok := calls[call.Name]; !ok {
				return &Error{Line: call.Line, Msg: fmt.Sprintf("template %q is not defined", call.Name)}
			}
			if reaches(calls, call.Name, from, map[string]bool{}) {
				return &Error{Line: call.Line, Msg: fmt.Sprintf("template %q calls itself", from)}
			}
		}
	}
	return nil
}

// reaches reports whether a call of template from may lead to a call of template to.
func reaches(calls map[string][]*parse.TemplateNode, from, to string, seen map[string]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	return slices.ContainsFunc(calls[from], func(c *parse.TemplateNode) bool {
		return reaches(calls, c.Name, to, seen)
	})
}

type preparation struct {
	lines *parse.Tree
	calls []*parse.TemplateNode
}

// counted prepares a list that is gone through as a whole, and has it begin with its count.
func (p *preparation) counted(list *parse.ListNode) {
	if list == nil {
		return
	}
	n := 1 + p.list(list)
	step := &parse.ActionNode{NodeType: parse.NodeAction, Pos: list.Pos, Pipe: &parse.PipeNode{
		NodeType: parse.NodePipe, Pos: list.Pos, Cmds: []*parse.CommandNode{call(list.Pos, stepFunction, n)},
	}}
	list.Nodes = append([]parse.Node{step}, list.Nodes...)
}

// list prepares the nodes of a list and returns how many steps they take at most, without the loops
// in it: these count for themselves.
func (p *preparation) list(list *parse.ListNode) int {
	if list == nil {
		return 0
	}
	n := len(list.Nodes)
	for _, node := range list.Nodes {
		switch x := node.(type) {
		case *parse.ActionNode:
			n += p.pipe(x.Pipe)
			if len(x.Pipe.Decl) == 0 {
				x.Pipe.Cmds = append(x.Pipe.Cmds, call(x.Pos, textFunction, x.Line))
			}
		case *parse.IfNode:
			n += p.branch(&x.BranchNode)
		case *parse.WithNode:
			n += p.branch(&x.BranchNode)
		case *parse.RangeNode:
			n += p.pipe(x.Pipe) + p.list(x.ElseList)
			p.counted(x.List)
		case *parse.TemplateNode:
			n += p.pipe(x.Pipe)
			p.calls = append(p.calls, x)
		}
	}
	return n
}

func (p *preparation) branch(b *parse.BranchNode) int {
	return p.pipe(b.Pipe) + p.list(b.List) + p.list(b.ElseList)
}

// pipe returns how many steps a pipeline takes.
func (p *preparation) pipe(pipe *parse.PipeNode) int {
	if pipe == nil {
		return 0
	}
	n := 0
	for _, cmd := range pipe.Cmds {
		n += len(cmd.Args)
		for _, arg := range cmd.Args {
			if inner, ok := arg.(*parse.PipeNode); ok {
				n += p.pipe(inner)
			}
		}
	}
	return n
}

// call returns the command that calls a function with a number.
func call(pos parse.Pos, function string, n int) *parse.CommandNode {
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pos, Args: []parse.Node{
		parse.NewIdentifier(function).SetTree(nil).SetPos(pos),
		&parse.NumberNode{NodeType: parse.NodeNumber, Pos: pos, IsInt: true, Int64: int64(n), Text: strconv.Itoa(n)},
	}}
}
