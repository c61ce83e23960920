package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

func (k completionCmd) Help() string {
	return "Load it with: source <(keywright completion bash), for bash; keywright completion zsh > \"${fpath[1]}/_keywright\", for zsh; keywright completion fish > ~/.config/fish/completions/keywright.fish, for fish."
}

func (k completionCmd) Run(p *kong.Kong, a *app) error {
	w := bufio.NewWriter(a.stdout)
	nodes := completionModel(p.Model)
	switch k.Shell {
	case "bash":
		bashCompletion(w, nodes)
	case "zsh":
		zshCompletion(w, nodes)
	case "fish":
		fishCompletion(w, nodes)
	}
	return w.Flush()
}

// completionNode is what a shell needs to know of one command.
type completionNode struct {
	path  string // "keywright keys create"
	help  string
	subs  []completionNode // by name
	flags []completionFlag // its own and those of the commands above
	args  []completionValue
}

type completionFlag struct {
	long, short string
	help        string
	value       bool // it takes one
	completionValue
	inherited bool
}

// completionValue is what can stand for a value.
type completionValue struct {
	words       []string
	files, dirs bool
	repeated    bool
}

// completionModel flattens the commands, each before its subcommands.
func completionModel(app *kong.Application) []completionNode {
	var all []completionNode
	var walk func(n *kong.Node, path string) completionNode
	walk = func(n *kong.Node, path string) completionNode {
		c := completionNode{path: path, help: n.Help}
		for _, group := range n.AllFlags(true) {
			for _, f := range group {
				flag := completionFlag{long: f.Name, help: f.Help, value: !f.IsBool() && !f.IsCounter(), inherited: !slices.Contains(n.Flags, f),
					completionValue: valueOf(f.Value, f.PlaceHolder)}
				if f.Short != 0 {
					flag.short = string(f.Short)
				}
				c.flags = append(c.flags, flag)
				if f.Tag.Negatable != "" {
					flag.long, flag.short = "no-"+f.Name, ""
					c.flags = append(c.flags, flag)
				}
			}
		}
		for _, p := range n.Positional {
			c.args = append(c.args, valueOf(p, p.Tag.PlaceHolder))
		}
		at := len(all)
		all = append(all, c)
		for _, sub := range n.Children {
			if sub.Type == kong.CommandNode && !sub.Hidden {
				c.subs = append(c.subs, walk(sub, path+" "+sub.Name))
			}
		}
		slices.SortFunc(c.subs, func(a, b completionNode) int { return cmp.Compare(a.path, b.path) })
		all[at] = c
		return c
	}
	walk(app.Node, app.Name)
	return all
}

func valueOf(v *kong.Value, placeholder string) completionValue {
	c := completionValue{files: placeholder == "FILE", dirs: placeholder == "DIR", repeated: v.IsCumulative()}
	for w := range v.EnumMap() {
		if w != "" {
			c.words = append(c.words, w)
		}
	}
	slices.Sort(c.words)
	return c
}

func (n completionNode) name() string { return n.path[strings.LastIndexByte(n.path, ' ')+1:] }

// spellings gives a flag as it is typed.
func (f completionFlag) spellings() []string {
	s := []string{"--" + f.long}
	if f.short != "" {
		s = append(s, "-"+f.short)
	}
	return s
}

// walkCases writes what each word means on the way to the one being completed: a subcommand, or a flag whose value follows.
func walkCases(nodes []completionNode) (subs, values []string) {
	for _, n := range nodes {
		for _, s := range n.subs {
			subs = append(subs, quote(s.path))
		}
		for _, f := range n.flags {
			if f.value {
				for _, s := range f.spellings() {
					values = append(values, quote(n.path+" "+s))
				}
			}
		}
	}
	return subs, values
}

// quote quotes for all three shells: the words are names of ours, and help has no backslashes.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// firstLine is a help text for a menu.
func firstLine(s string) string {
	s = strings.NewReplacer("\n", " ", "\\", "", "$$", "$").Replace(s)
	if i := strings.Index(s, ". "); i >= 0 {
		s = s[:i]
	}
	return strings.TrimSuffix(s, ".")
}

// writef writes to a buffered writer, which keeps the first error until Flush.
func writef(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format, args...) //nolint:errcheck // kept by bufio until Flush
}
