package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/fault"
	"github.com/keywright/keywright/keys"
)

// object is a JSON object of the document.
type object = map[string]any

func (s *Server) openAPI(_ context.Context, c *call, _ *wire.Empty) (wire.Empty, error) {
	if err := s.documents(); err != nil {
		return wire.Empty{}, err
	}
	c.answer.raw, c.answer.contentType = s.spec, "application/json"
	return wire.Empty{}, nil
}

// documents makes the OpenAPI document and the reference page when they are first asked for.
func (s *Server) documents() error {
	s.document.Do(func() {
		d := describe(s.routes, s.version)
		if s.spec, s.documentErr = json.Marshal(d.root()); s.documentErr == nil {
			s.page, s.documentErr = renderPage(s.routes, s.version)
		}
		s.pagePolicy = pagePolicy()
	})
	return s.documentErr
}

// document is an OpenAPI 3.1 document in the making: routes and the schemas that they refer to.
type document struct {
	paths   object
	schemas object
	version string
}

// describe makes the document of a table.
func describe(routes []route, version string) *document {
	d := &document{paths: object{}, schemas: object{}, version: version}
	d.schemas["Error"] = d.structure(reflect.TypeFor[wire.Error]())
	d.schemas["Error"].(object)["properties"].(object)["error_code"] = object{"type": "string", "enum": codeNames(),
		"description": meaningOf("error_code")}
	d.schema(reflect.TypeFor[wire.ErrorResponse]())
	d.schema(reflect.TypeFor[wire.Event]()) // the data of a stream, and the body of a webhook
	d.qpherErrors()
	for i := range routes {
		r := &routes[i]
		for _, p := range r.documentPaths() {
			item, ok := d.paths[p].(object)
			if !ok {
				item = object{}
				d.paths[p] = item
			}
			item[strings.ToLower(r.Method)] = d.operation(r, p)
		}
	}
	return d
}

func codeNames() []string {
	var names []string
	for _, c := range fault.Codes() {
		names = append(names, string(c.Code))
	}
	return names
}

// documentPaths gives the paths of a route in the document.
func (r *route) documentPaths() []string {
	if r.AtRoot {
		return []string{prefix + r.Path, r.Path}
	}
	return []string{prefix + r.Path}
}

func (d *document) root() object {
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Keywright", "version": d.version, "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "Cryptography over REST with keys that stay in hardware, or sealed. Binary fields are standard " +
				"padded base64, times RFC 3339 in UTC. Unknown fields, unknown query parameters and repeated names are errors. " +
				"Every response carries its request id, in the body and in X-Request-ID.",
		},
		"servers":    []any{object{"url": "/"}},
		"security":   []any{object{"bearer": []any{}}, object{"apiKey": []any{}}, object{"mutualTLS": []any{}}, object{"session": []any{}}},
		"tags":       tagList(),
		"paths":      d.paths,
		"components": object{"schemas": d.schemas, "responses": object{"Error": errorResponse("ErrorResponse"), "QpherError": errorResponse("QpherErrorResponse")}, "headers": answerHeaders(), "securitySchemes": securitySchemes()},
	}
}

// answerHeaders are the headers of answers that tell a caller something, by name.
func answerHeaders() object {
	header := func(kind, meaning string) object {
		return object{"schema": object{"type": kind}, "description": meaning}
	}
	return object{
		"X-Request-ID":          header("string", "The request id."),
		"X-Audit-Index":         header("integer", "The number of the entry of the audit log that tells of this, where there is one."),
		"X-RateLimit-Limit":     header("integer", "Requests a minute, of the stricter of the tenant's rate and the credential's. Absent without a rate, as are the next two."),
		"X-RateLimit-Remaining": header("integer", "How many requests would pass at once."),
		"X-RateLimit-Reset":     header("integer", "When the whole burst is there again, in seconds since 1970-01-01 UTC."),
		"Retry-After":           header("integer", "Seconds after which to try again, where that helps."),
	}
}

// headersOf refers to headers of an answer: all, or those of one that succeeded, or of one that nobody has to be known for.
func headersOf(failed, open bool) object {
	out := object{}
	for name := range answerHeaders() {
		if name == "X-Request-ID" || (failed || !open) && (failed || name != "Retry-After") {
			out[name] = object{"$ref": "#/components/headers/" + name}
		}
	}
	return out
}

func tagList() []any {
	var out []any
	for _, t := range tags() {
		out = append(out, object{"name": t[0], "description": t[1]})
	}
	return out
}

// tags are the groups of routes, with what is said of each, in the order of the documentation.
func tags() [][2]string {
	return [][2]string{
		{"keys", "Create, find, change, import, export and end keys. A key is named by its id or its name; a slash in a name is written %2F."},
		{"versions", "The material of a key: each rotation makes a version, and each version has its own state."},
		{"operations", "What keys do. Every operation takes the fields of one item, or items with up to 1,000 of them; each item of a batch has its own result or error."},
		{"backends", "The devices, with what each can do, as probed."},
		{"nodes", "The services that run on one store: equal, and each able to answer anything."},
		{"api-keys", "The credentials of the tenant."},
		{"sessions", "What a browser signs in for. Beside the cookie every change needs the header X-CSRF-Token."},
		{"tenants", "The owners of keys, API keys and audit entries. Nothing crosses tenants: what is another's is not found."},
		{"events", "What has changed, as a stream and as signed calls to receivers (Standard Webhooks)."},
		{"policies", "Who may do what with a key: grants, approvals, and what would be decided."},
		{"settings", "What a tenant has settled for itself."},
		{"jobs", "Work that outlives the request that asked for it."},
		{"audit", "The append-only log, with its checkpoints and proofs (RFC 6962, C2SP tlog-checkpoint)."},
		{"root", "The ways to open the root secret."},
		{qpher.Tag, qpher.About},
		{"service", "State and documentation of the service. These need no credential."},
	}
}

func securitySchemes() object {
	return object{
		"bearer":    object{"type": "http", "scheme": "bearer", "bearerFormat": "API key or JWT", "description": "An API key, or a JSON Web Token of an issuer that the configuration names."},
		"apiKey":    object{"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same API key, in a header of its own."},
		"mutualTLS": object{"type": "mutualTLS", "description": "A client certificate that the configuration maps to a tenant. On a Unix socket the user or group of the caller stands for it."},
		"session":   object{"type": "apiKey", "in": "cookie", "name": sessionCookie, "description": "A session, alone: beside another credential it is refused. Changes need its csrf_token in X-CSRF-Token."},
	}
}

func errorResponse(schema string) object {
	return object{
		"description": "The request failed: error_code says why, in a form that never changes.",
		"headers":     headersOf(true, false),
		"content":     object{"application/json": object{"schema": object{"$ref": "#/components/schemas/" + schema}}},
	}
}

// operation describes a route at one of its paths.
func (d *document) operation(r *route, path string) object {
	op := object{"summary": r.Summary, "tags": []string{r.Tag}, "operationId": operationID(r, path)}
	var params []any
	for _, part := range strings.Split(r.Path, "/") {
		if !strings.HasPrefix(part, "{") {
			continue
		}
		name := strings.Trim(part, "{}")
		schema, meaning := object{"type": "string"}, ""
		switch name {
		case "n":
			schema = object{"type": "integer", "minimum": 0}
			meaning = "number of the version or entry"
		case "key":
			meaning = "id or name of a key"
		}
		p := object{"name": name, "in": "path", "required": true, "schema": schema}
		if meaning != "" {
			p["description"] = meaning
		}
		params = append(params, p)
	}
	for _, q := range r.Query {
		schema := object{"type": q.Type}
		if q.Type == "date-time" {
			schema = object{"type": "string", "format": "date-time"}
		}
		params = append(params, object{"name": q.Name, "in": "query", "schema": schema, "description": q.Meaning})
	}
	if r.onKey && r.Method != http.MethodGet || r.Tag == "operations" {
		params = append(params, object{"name": "X-Approval", "in": "header", "schema": object{"type": "string", "format": "uuid"},
			"description": "The id of an approval of exactly this request, where the key asks for one."})
	}
	if r.Creates {
		params = append(params, object{"name": "Idempotency-Key", "in": "header", "schema": object{"type": "string", "maxLength": 255},
			"description": "The same key with the same request gives the same answer, for 24 hours."})
	}
	if params != nil {
		op["parameters"] = params
	}
	switch {
	case r.Open:
		op["security"] = []any{}
	case r.Scope != "":
		op["description"] = "Scope: " + r.scopes() + "."
	case r.Session:
		op["description"] = "Only in a session of an owner or admin: any other credential is refused."
	case r.Signed:
		op["description"] = "Only in a session."
	case r.Opens:
		op["description"] = "A token, a client certificate or the user of a Unix socket: an API key is refused."
	default:
		op["description"] = "Any credential will do."
	}
	if r.BodyLimit > 0 && r.Do.Req != reflect.TypeFor[wire.Empty]() {
		op["requestBody"] = object{"required": !r.BodyOptional,
			"description": "At most " + strconv.FormatInt(r.BodyLimit, 10) + " bytes.",
			"content":     object{"application/json": object{"schema": d.schema(r.Do.Req)}}}
	}
	op["responses"] = object{strconv.Itoa(r.Status): d.success(r), "default": object{"$ref": "#/components/responses/" + r.errorName()}}
	return op
}

func (r *route) scopes() string {
	text := string(r.Scope)
	if r.Or != "" {
		text += " or " + string(r.Or)
	}
	if r.And != "" {
		text += " and " + string(r.And)
	}
	return text
}

func operationID(r *route, path string) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(r.Method))
	rest := r.Path
	if !strings.HasPrefix(path, prefix) {
		rest = "/root" + rest
	}
	for _, part := range strings.FieldsFunc(rest, func(c rune) bool { return strings.ContainsRune("/{}-.", c) }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

// success describes the answer: the envelope around its data, or another medium.
func (d *document) success(r *route) object {
	out := object{"description": http.StatusText(r.Status), "headers": headersOf(false, r.Open)}
	if r.Do.Media != "" {
		out["content"] = object{strings.SplitN(r.Do.Media, ";", 2)[0]: object{"schema": object{"type": "string"}}}
		if r.Do.Media == "application/json" {
			out["content"] = object{"application/json": object{"schema": object{"type": "object"}}}
		}
		return out
	}
	data := d.schema(r.Do.Resp)
	if r.Do.Batched {
		data = object{"anyOf": []any{data, object{"type": "object", "required": []string{"items"},
			"properties": object{"items": object{"type": "array", "items": data}}}}}
	}
	content := object{"application/json": object{"schema": object{"type": "object",
		"required": []string{"data", "request_id", "timestamp"},
		"properties": object{"data": data, "request_id": object{"type": "string"},
			"timestamp": object{"type": "string", "format": "date-time"}}}}}
	if r.Do.Resp == reflect.TypeFor[wire.PublicKey]() {
		content["application/jwk+json"] = object{"schema": object{"type": "object",
			"description": "With format=jwk: the bare JWK (RFC 7517)."}}
	}
	out["content"] = content
	return out
}

// schema describes a type: a reference for a named structure, which it describes once.
func (d *document) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[jsontext.Value]():
		return object{"description": "Any JSON value."}
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "format": "byte", "contentEncoding": "base64"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		value := d.schema(t.Elem())
		if t.Elem().Kind() == reflect.Pointer {
			value["type"] = []string{value["type"].(string), "null"}
		}
		return object{"type": "object", "additionalProperties": value}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Struct:
		name := schemaName(t)
		if _, ok := d.schemas[name]; !ok {
			d.schemas[name] = object{} // a type may refer to itself
			d.schemas[name] = d.structure(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	panic(fmt.Sprintf("api: no schema for %v", t)) // of a type of ours: the tests make every document
}

// schemaName makes one word of a type's name, a generic one included: "List[…wire.Key]" is "KeyList".
func schemaName(t reflect.Type) string {
	name := t.Name()
	if t.PkgPath() == qpherPath {
		return "Qpher" + name
	}
	if outer, inner, ok := strings.Cut(name, "["); ok {
		inner = strings.TrimSuffix(inner, "]")
		return inner[strings.LastIndex(inner, ".")+1:] + outer
	}
	return name
}

func (d *document) structure(t reflect.Type) object {
	props := object{}
	var need []string
	for _, f := range fieldsOf(t) {
		props[f.name] = d.member(t, f)
		if !f.optional {
			need = append(need, f.name)
		}
	}
	out := object{"type": "object", "properties": props}
	// The required fields of an operation are those of its one item, which items stand in for. (A list is generic.)
	_, batch := props["items"]
	if need != nil && (!batch || strings.Contains(t.Name(), "[")) {
		sort.Strings(need)
		out["required"] = need
	}
	return out
}

// member describes a field: its type, its choices, its meaning. (Beside a reference OpenAPI 3.1 allows a description.)
func (d *document) member(in reflect.Type, f field) object {
	schema := d.schema(f.typ)
	if values := choices(in, f.name); values != nil {
		schema = object{"type": "string", "enum": values}
	}
	if f.name == "items" && schema["type"] == "array" && !strings.Contains(in.Name(), "[") {
		schema["minItems"], schema["maxItems"] = 1, keys.MaxItems
	}
	if m := meaning(in, f.name); m != "" {
		schema["description"] = m
	}
	return schema
}

var (
	wirePath  = reflect.TypeFor[wire.Empty]().PkgPath()
	qpherPath = reflect.TypeFor[qpher.Key]().PkgPath()
)

// field is a member of a JSON object.
type field struct {
	name     string
	typ      reflect.Type
	optional bool
}

// fieldsOf lists the members of a structure, with those of embedded ones in their place.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for f := range structFields(t) {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			out = append(out, fieldsOf(f.Type)...)
			continue
		}
		out = append(out, field{tag, f.Type, options != ""})
	}
	return out
}

func structFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
