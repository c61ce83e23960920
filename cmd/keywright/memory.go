package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/hsm"
)

// memoryFile is where the data folder has what is known of backends from earlier starts, so that a service can start while a token is missing. It
// holds no secrets, and nothing is lost with it: the next start with the tokens writes it again.
const memoryFile = "backends.json"

// memory is what is remembered of one backend.
type memory struct {
	path    string
	backend string
	tokens  []string // what the configuration says of its tokens: what was known of others says nothing about these
}

// remembered is one backend in the file.
type remembered struct {
	Tokens []string  `json:"tokens"`
	Known  hsm.Known `json:"known"`
}

// remembering keeps writers of the file apart: backends open at the same time.
type remembering struct{ mu sync.Mutex }

func (m memory) read() (map[string]remembered, error) {
	text, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]remembered{}, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string]remembered{}
	if err := json.Unmarshal(text, &all, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%s is not what an earlier start wrote (it may be removed while the tokens are there): %w", m.path, err)
	}
	return all, nil
}

// known gives what an earlier start found on the same tokens, or nil.
func (m memory) known() (*hsm.Known, error) {
	all, err := m.read()
	if err != nil {
		return nil, err
	}
	r, ok := all[m.backend]
	if !ok || !slices.Equal(r.Tokens, m.tokens) {
		return nil, nil //nolint:nilnil // nothing known is no error
	}
	return &r.Known, nil
}

// keep writes what is known now, if it is not there already. lock keeps other backends out.
func (m memory) keep(lock *remembering, k hsm.Known) error {
	lock.mu.Lock()
	defer lock.mu.Unlock()
	all, err := m.read()
	if err != nil {
		return err
	}
	all[m.backend] = remembered{Tokens: m.tokens, Known: k}
	text, err := json.Marshal(all, json.Deterministic(true), jsontext.WithIndent("\t"))
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(m.path); err == nil && string(old) == string(text) {
		return nil
	}
	return replaceFile(m.path, text)
}

// tokenNames gives the members' URIs without their PINs.
func tokenNames(members []member) []string {
	out := make([]string, 0, len(members))
	for _, m := range members {
		out = append(out, m.uri.String())
	}
	return out
}
