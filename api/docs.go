package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"reflect"
	"slices"
	"strconv"
	"strings"

	_ "embed"

	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
	"github.com/keywright/keywright/fault"
)

//go:embed docs.html
var pageSource string

//go:embed docs.css
var pageStyle string

func (s *Server) docs(_ context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	if err := s.documents(); err != nil {
		return wire.Empty{}, err
	}
	h := c.gin.Writer.Header()
	h["Content-Security-Policy"] = []string{s.pagePolicy}
	h["Referrer-Policy"] = []string{"no-referrer"}
	c.answer.raw, c.answer.contentType = s.page, "text/html; charset=utf-8"
	return wire.Empty{}, nil
}

// pagePolicy lets the page load nothing and run nothing: its one style sheet is named by its hash.
func pagePolicy() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// The data of the page, made from the same table as everything else.
type (
	pageData struct {
		Version string
		Style   template.CSS
		Groups  []pageGroup
		Scopes  []auth.Scope
		Errors  []pageError
	}
	pageGroup struct {
		Name, Title, About string
		Routes             []pageRoute
	}
	pageRoute struct {
		ID, Method, Path, Summary, Scope string
		AtRoot, Creates, Optional        bool
		Status                           int
		Limit                            string
		Query                            []param
		Request, Response                []pageField
		Batched                          bool
		Media                            string
	}
	pageField struct {
		Name, Type, Meaning string
		Choices             []string
		Optional            bool
		Depth               int
	}
	pageError struct {
		Code    fault.Code
		Status  int
		Meaning string
	}
)

func renderPage(routes []route, version string) ([]byte, error) {
	t, err := template.New("docs").Parse(pageSource)
	if err != nil {
		return nil, err
	}
	data := pageData{Version: version, Style: template.CSS(pageStyle), Scopes: auth.Scopes()} //nolint:gosec // a file of ours
	for _, g := range tags() {
		group := pageGroup{Name: g[0], Title: title(g[0]), About: g[1]}
		for i := range routes {
			if r := &routes[i]; r.Tag == g[0] {
				group.Routes = append(group.Routes, describeRoute(r))
			}
		}
		data.Groups = append(data.Groups, group)
	}
	for _, c := range fault.Codes() {
		status, _ := statusOf(c.Code) // every code has one: a test sees to it
		data.Errors = append(data.Errors, pageError{c.Code, status, c.Meaning})
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// title is a group's name as a heading.
func title(name string) string {
	if name == "api-keys" {
		return "API keys"
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// binarySize writes a number of bytes in the largest unit that divides it.
func binarySize(n int64) string {
	switch {
	case n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	case n%(1<<10) == 0:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

func describeRoute(r *route) pageRoute {
	p := pageRoute{ID: operationID(r, prefix+r.Path), Method: r.Method, Path: prefix + r.Path, Summary: r.Summary,
		Scope: r.scopes(), AtRoot: r.AtRoot, Creates: r.Creates, Optional: r.BodyOptional, Status: r.Status, Query: r.Query,
		Batched: r.Do.Batched, Media: r.Do.Media}
	switch {
	case r.Open:
		p.Scope = "no credential"
	case r.Scope == "":
		p.Scope = "any credential"
	}
	if r.BodyLimit > 0 && r.Do.Req != reflect.TypeFor[wire.Empty]() {
		p.Limit = binarySize(r.BodyLimit)
		p.Request = pageFields(r.Do.Req, 0)
		if r.onKey { // the body must not name the key as well
			p.Request = slices.DeleteFunc(p.Request, func(f pageField) bool { return f.Name == "key" && f.Depth == 0 })
		}
	}
	if r.Do.Media == "" {
		p.Response = pageFields(r.Do.Resp, 0)
	}
	return p
}

func pageFields(t reflect.Type, depth int) []pageField {
	var out []pageField
	for _, f := range fieldsOf(t) {
		out = append(out, pageField{Name: f.name, Type: typeName(f.typ), Optional: f.optional, Depth: depth,
			Meaning: meaning(t, f.name), Choices: choices(t, f.name)})
		if inner := structOf(f.typ); inner != nil && depth < 2 {
			out = append(out, pageFields(inner, depth+1)...)
		}
	}
	return out
}

// structOf gives the structure that a field holds, or holds a list of.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.PkgPath() != wirePath && t.PkgPath() != qpherPath {
		return nil
	}
	return t
}

func typeName(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Pointer:
		return typeName(t.Elem())
	case t == reflect.TypeFor[[]byte]():
		return "base64"
	case t.PkgPath() == "time":
		return "time"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "object"
	case reflect.Struct:
		return "object"
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	}
	return "integer"
}
