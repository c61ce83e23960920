package main

import (
	"io"
	"strconv"
	"strings"
)

// bashCompletion writes a function that walks the words to the command being typed, and one table for what comes next.
// Bash splits words at "=", so that --flag=value arrives in three.
func bashCompletion(w io.Writer, nodes []completionNode) {
	subs, values := walkCases(nodes)
	writef(w, `# bash completion for keywright
_keywright() {
    local cur=${COMP_WORDS[COMP_CWORD]} node=keywright flag= word i n=0
    COMPREPLY=()
    for (( i = 1; i < COMP_CWORD; i++ )); do
        word=${COMP_WORDS[i]}
        flag=
        case "$node $word" in
        %s) node="$node $word"; n=0 ;;
        %s)
            flag=$word
            if [[ ${COMP_WORDS[i+1]} == "=" ]]; then (( i++ )); fi
            if (( i + 1 < COMP_CWORD )); then flag=; fi
            (( i++ )) ;;
        *) if [[ $word != -* ]]; then (( n++ )); fi ;;
        esac
    done
    if [[ $cur == "=" ]]; then cur=; fi
    if [[ -n $flag ]]; then
        case "$node $flag" in
`, strings.Join(subs, "|"), strings.Join(values, "|"))
	for _, n := range nodes {
		for _, f := range n.flags {
			if c := bashValue(f.completionValue); f.value && c != "" {
				names := f.spellings()
				for i := range names {
					names[i] = quote(n.path + " " + names[i])
				}
				writef(w, "        %s) %s ;;\n", strings.Join(names, "|"), c)
			}
		}
	}
	writef(w, `        esac
        return 0
    fi
    case "$node" in
`)
	for _, n := range nodes {
		var flags, words []string
		for _, f := range n.flags {
			flags = append(flags, f.spellings()...)
		}
		for _, s := range n.subs {
			words = append(words, s.name())
		}
		writef(w, "    %s)\n        if [[ $cur == -* ]]; then COMPREPLY=( $(compgen -W %s -- \"$cur\") ); return 0; fi\n", quote(n.path), quote(strings.Join(flags, " ")))
		if len(words) > 0 {
			writef(w, "        COMPREPLY=( $(compgen -W %s -- \"$cur\") )\n", quote(strings.Join(words, " ")))
		}
		if len(n.args) > 0 {
			writef(w, "        case $n in\n")
			for i, a := range n.args {
				pattern := strconv.Itoa(i)
				if a.repeated {
					pattern = "*"
				}
				if c := bashValue(a); c != "" {
					writef(w, "        %s) %s ;;\n", pattern, c)
				}
			}
			writef(w, "        esac\n")
		}
		writef(w, "        ;;\n")
	}
	writef(w, `    esac
    return 0
}
complete -F _keywright keywright
`)
}

func bashValue(v completionValue) string {
	switch {
	case len(v.words) > 0:
		return `COMPREPLY=( $(compgen -W ` + quote(strings.Join(v.words, " ")) + ` -- "$cur") )`
	case v.files:
		return `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur")`
	case v.dirs:
		return `compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur")`
	}
	return ""
}

// zshCompletion does the same with zsh's own menus and descriptions.
func zshCompletion(w io.Writer, nodes []completionNode) {
	subs, values := walkCases(nodes)
	writef(w, `#compdef keywright
_keywright() {
    local node=keywright flag= word i n=0
    local -a items
    for (( i = 2; i < CURRENT; i++ )); do
        word=${words[i]}
        flag=
        case "$node $word" in
        (%s) node="$node $word"; n=0 ;;
        (%s)
            (( i + 1 < CURRENT )) || flag=$word
            (( i++ )) ;;
        (*) [[ $word == -* ]] || (( n++ )) ;;
        esac
    done
    if [[ -z $flag && $PREFIX == --*=* ]]; then
        flag=${PREFIX%%%%=*}
        compset -P '*='
    fi
    if [[ -n $flag ]]; then
        case "$node $flag" in
`, strings.Join(subs, "|"), strings.Join(values, "|"))
	for _, n := range nodes {
		for _, f := range n.flags {
			if c := zshValue(f.completionValue); f.value && c != "" {
				names := f.spellings()
				for i := range names {
					names[i] = quote(n.path + " " + names[i])
				}
				writef(w, "        (%s) %s ;;\n", strings.Join(names, "|"), c)
			}
		}
	}
	writef(w, `        esac
        return
    fi
    case "$node" in
`)
	for _, n := range nodes {
		writef(w, "    (%s)\n        if [[ $PREFIX == -* ]]; then\n            items=(", quote(n.path))
		for _, f := range n.flags {
			for _, s := range f.spellings() {
				writef(w, " %s", quote(s+":"+firstLine(f.help)))
			}
		}
		writef(w, ")\n            _describe -o option items\n            return\n        fi\n")
		if len(n.subs) > 0 {
			writef(w, "        items=(")
			for _, s := range n.subs {
				writef(w, " %s", quote(s.name()+":"+firstLine(s.help)))
			}
			writef(w, ")\n        _describe command items\n")
		}
		if len(n.args) > 0 {
			writef(w, "        case $n in\n")
			for i, a := range n.args {
				pattern := strconv.Itoa(i)
				if a.repeated {
					pattern = "*"
				}
				if c := zshValue(a); c != "" {
					writef(w, "        (%s) %s ;;\n", pattern, c)
				}
			}
			writef(w, "        esac\n")
		}
		writef(w, "        ;;\n")
	}
	writef(w, `    esac
}
if [[ $funcstack[1] == _keywright ]]; then
    _keywright "$@"
else
    compdef _keywright keywright
fi
`)
}

func zshValue(v completionValue) string {
	switch {
	case len(v.words) > 0:
		return "compadd -- " + strings.Join(v.words, " ")
	case v.files:
		return "_files"
	case v.dirs:
		return "_files -/"
	}
	return ""
}

// fishCompletion writes one line for each thing that can be completed, under the condition of its command.
func fishCompletion(w io.Writer, nodes []completionNode) {
	subs, values := walkCases(nodes)
	writef(w, `# fish completion for keywright
function __keywright_at
    set -l node keywright
    set -l n 0
    set -l skip 0
    set -l tokens (commandline -opc)
    for word in $tokens[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$node $word"
            case %s
                set node "$node $word"
                set n 0
            case %s
                set skip 1
            case '* -*'
            case '*'
                set n (math $n + 1)
        end
    end
    test "$node" = "$argv[1]"; or return 1
    test (count $argv) = 1; or test "$argv[2]" = '*'; or test "$argv[2]" = $n
end
complete -c keywright -f
`, strings.Join(subs, " "), strings.Join(values, " "))
	for _, n := range nodes {
		for _, s := range n.subs {
			writef(w, "complete -c keywright -n %s -a %s -d %s\n", quote(`__keywright_at "`+n.path+`"`), s.name(), quote(firstLine(s.help)))
		}
		for _, f := range n.flags {
			if f.inherited {
				continue // it has a line where it belongs, without a condition
			}
			condition := " -n " + quote(`__keywright_at "`+n.path+`"`)
			if !strings.Contains(n.path, " ") {
				condition = ""
			}
			short := ""
			if f.short != "" {
				short = " -s " + f.short
			}
			writef(w, "complete -c keywright%s -l %s%s%s -d %s\n", condition, f.long, short, fishValue(f), quote(firstLine(f.help)))
		}
		for i, a := range n.args {
			at := strconv.Itoa(i)
			if a.repeated {
				at = "*"
			}
			condition := quote(`__keywright_at "` + n.path + `" "` + at + `"`)
			switch {
			case len(a.words) > 0:
				writef(w, "complete -c keywright -n %s -a %s\n", condition, quote(strings.Join(a.words, " ")))
			case a.files:
				writef(w, "complete -c keywright -n %s -F\n", condition)
			}
		}
	}
}

func fishValue(f completionFlag) string {
	switch {
	case !f.value:
		return ""
	case len(f.words) > 0:
		return " -x -a " + quote(strings.Join(f.words, " "))
	case f.files:
		return " -r -F"
	case f.dirs:
		return " -x -a '(__fish_complete_directories)'"
	}
	return " -x"
}
