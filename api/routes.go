package api

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/keywright/keywright/api/qpher"
	"github.com/keywright/keywright/api/wire"
	"github.com/keywright/keywright/auth"
)

// prefix is where the API lives.
const prefix = "/api/v1"

// Body limits, in bytes, and time limits of routes.
const (
	bodySmall     = 64 << 10 // what administers
	bodyOperation = 4 << 20  // 1,000 items of some KiB, or one of 1 MiB
	timeShort     = 10 * time.Second
	timeDevice    = 60 * time.Second // RSA-4096 on a slow token takes its time
)

// route is one row of the API: everything that the pipeline, the OpenAPI document, the reference page and the tests need
// to know about it.
type route struct {
	Method       string
	Path         string     // below prefix, parameters in braces
	Scope        auth.Scope // "" with Open false: any credential
	Or           auth.Scope // another that does as well
	And          auth.Scope // one more that is needed
	Session      bool       // only for an owner or admin in a session
	Signed       bool       // only in a session
	Opens        bool       // only with a credential that makes sessions: no API key
	Open         bool       // needs no credential and works while locked
	NeedsRoot    bool       // with Open: not while locked
	AtRoot       bool       // also without the prefix
	BodyLimit    int64      // bytes; 0: no body
	BodyOptional bool
	Timeout      time.Duration // 0: none
	Status       int           // of success
	Query        []param
	Tolerant     bool // others may add parameters to the query
	Creates      bool // takes Idempotency-Key
	Tag          string
	Summary      string
	Do           endpoint
	Qpher        qpher.Group // answers in Qpher's forms; "": in ours
	onKey        bool        // the path has {key}

	Act string       // what it asks for, as the audit log names it; by settleActs, as the next
	ask auth.Request // of auth.Decide at the door, but for who asks and when
}

// param is a query parameter.
type param struct {
	Name    string
	Type    string // "string", "integer" or "date-time"
	Meaning string
}

// endpoint is a handler with the types it was made of.
type endpoint struct {
	Req, Resp reflect.Type
	Batched   bool   // the answer is one Resp, or a batch of them
	Media     string // of the answer when it is not JSON in the envelope
	decode    func(*call) error
	run       func(context.Context, *call) error
}

// handle makes an endpoint of a handler. The response is written into the call at once; a handler that set call.answer
// writes its own.
func handle[Req, Resp any](fn func(context.Context, *call, *Req) (Resp, error)) endpoint {
	return endpoint{
		Req: reflect.TypeFor[Req](), Resp: reflect.TypeFor[Resp](),
		decode: func(c *call) error { return c.decodeInto(new(Req)) },
		run: func(ctx context.Context, c *call) error {
			req := new(Req)
			if len(c.body) > 0 || c.route.BodyLimit > 0 && !c.route.BodyOptional {
				if err := c.decodeInto(req); err != nil {
					return err
				}
			}
			resp, err := fn(ctx, c, req)
			if err != nil {
				return err
			}
			if c.answer.raw != nil || c.answer.stream != nil {
				return nil
			}
			return c.appendData(resp)
		},
	}
}

// media says that an endpoint's answer is not JSON in the envelope.
func media(contentType string, e endpoint) endpoint {
	e.Media = contentType
	return e
}

// instead says what the answer of an endpoint looks like on the wire when its own type does not.
func instead[Resp any](e endpoint) endpoint {
	e.Resp = reflect.TypeFor[Resp]()
	return e
}

// decodeInto decodes the body that was read.
func (c *call) decodeInto(p any) error {
	c.fields.reserve(len(c.body))
	if c.decodePlain(p) {
		return nil
	}
	return decodeBody(c.body, p, c.decode)
}

// oneOf is the set of scopes of which one is needed.
func (r *route) oneOf() auth.ScopeSet { return auth.SetOf(r.Scope, r.Or) }

func (r *route) timeout(l Limits) time.Duration {
	if r.Timeout > 0 && l.Timeout > 0 {
		return l.Timeout
	}
	return r.Timeout
}

// ginPaths gives the paths in gin's notation.
func (r *route) ginPaths() []string {
	p := strings.NewReplacer("{", ":", "}", "").Replace(r.Path)
	if r.AtRoot {
		return []string{prefix + p, p}
	}
	return []string{prefix + p}
}

// Shorthands for the rows of the table.

func open(method, path, tag, summary string, do endpoint) route {
	return route{Method: method, Path: path, Open: true, AtRoot: true, Status: http.StatusOK, Timeout: timeShort, Tag: tag,
		Summary: summary, Do: do}
}

func read(path string, scope auth.Scope, tag, summary string, do endpoint, query ...param) route {
	return route{Method: http.MethodGet, Path: path, Scope: scope, Status: http.StatusOK, Timeout: timeShort, Tag: tag,
		Summary: summary, Query: query, Do: do}
}

func write(method, path string, scope auth.Scope, tag, summary string, do endpoint) route {
	return route{Method: method, Path: path, Scope: scope, Status: http.StatusOK, BodyLimit: bodySmall, Timeout: timeDevice,
		Tag: tag, Summary: summary, Do: do}
}

// act is a write without a body.
func act(path string, scope auth.Scope, tag, summary string, do endpoint) route {
	return route{Method: http.MethodPost, Path: path, Scope: scope, Status: http.StatusOK, BodyLimit: bodySmall,
		BodyOptional: true, Timeout: timeDevice, Tag: tag, Summary: summary, Do: do}
}

func operate(path, summary string, do endpoint) route {
	return route{Method: http.MethodPost, Path: path, Scope: auth.ScopeEncryptionWrite, Status: http.StatusOK,
		BodyLimit: bodyOperation, Timeout: timeDevice, Tag: "operations", Summary: summary, Do: do}
}

func (r route) creates() route {
	r.Status, r.Creates = http.StatusCreated, true
	return r
}

func page(extra ...param) []param {
	return append(extra,
		param{"limit", "integer", "how many at most, 1 to 1000; 100 when absent"},
		param{"cursor", "string", "next_cursor of the page before"})
}

// table is the API.
func (s *Server) table() []route {
	rows := slices.Concat(s.rows(), s.accessRows(), s.sessionRows(), s.eventRows(), s.backupRows(), s.qpherRows())
	for i := range rows {
		rows[i].onKey = strings.Contains(rows[i].Path, "{key}")
	}
	return rows
}

func (s *Server) rows() []route {
	const (
		kr = auth.ScopeKeysRead
		kw = auth.ScopeKeysWrite
		ar = auth.ScopeAuditRead
		sr = auth.ScopeSettingsRead
		sw = auth.ScopeSettingsWrite
		br = auth.ScopeBackendsRead
		rr = auth.ScopeRootRead
		rw = auth.ScopeRootWrite
		bw = auth.ScopeBackendsWrite
		tr = auth.ScopeTenantsRead
		tw = auth.ScopeTenantsWrite
	)
	post, patch, del := http.MethodPost, http.MethodPatch, http.MethodDelete
	unlock := open(post, "/unlock", "service", "Open the root with a passphrase, a key file or shares", handle(s.unlock))
	unlock.BodyLimit, unlock.AtRoot, unlock.Timeout = bodySmall, false, timeDevice
	deletion := write(del, "/keys/{key}", kw, "keys", "Schedule the end of a key", handle(s.deleteKey))
	deletion.BodyOptional = true
	deletion.Query = []param{{"waiting_period_days", "integer", "7 to 30; 30 when absent"}}
	export := read("/audit/export", auth.ScopeAuditExport, "audit", "All entries with the checkpoint, for verification offline", media(exportMedia, handle(s.exportAudit)))
	export.Timeout = 0
	revoke := write(del, "/api-keys/{id}", sw, "api-keys", "Revoke an API key at once", handle(s.revokeAPIKey))
	revoke.BodyLimit = 0
	removeSlot := write(del, "/root/slots/{id}", rw, "root", "Remove a slot; the last one stays", handle(s.removeSlot))
	removeSlot.BodyLimit = 0
	addSlot := write(post, "/root/slots", rw, "root", "Add a way to open the root", handle(s.addSlot))
	addSlot.Status = http.StatusCreated
	reseal := write(post, "/keys/reseal", bw, "keys", "Begin a job that seals anew what is under a root or device key that was replaced", handle(s.resealKeys)).creates().or(rw)
	reseal.BodyOptional = true
	showRoot := read("/root", rr, "root", "The generation of the root, and what hangs on earlier ones", handle(s.showRoot)).or(rw)
	showKEKs := read("/backends/{name}/keks", br, "backends", "The keys of a device over the keys of the backend", handle(s.listKEKs)).or(bw)
	showRoot.Timeout, showKEKs.Timeout = timeDevice, timeDevice // they count key versions
	retireRoot := write(post, "/root/retire", rw, "root", "Give up the earlier roots now", handle(s.retireRoot))
	retireRoot.BodyOptional = true
	recoverTenant := write(post, "/tenants/{id}/recover", tw, "tenants", "Give a tenant that has lost its owner's API key another one; it is shown this once, and the tenant sees it", handle(s.recoverTenant)).creates()
	recoverTenant.BodyOptional = true

	return []route{
		open(http.MethodGet, "/health", "service", "Whether the process answers, and whether it is locked", handle(s.health)),
		open(http.MethodGet, "/ready", "service", "Whether the service can work: 503 when it cannot", handle(s.isReady)),
		open(http.MethodGet, "/openapi.json", "service", "This document", media("application/json", handle(s.openAPI))),
		open(http.MethodGet, "/docs", "service", "The reference page", media("text/html; charset=utf-8", handle(s.docs))),
		unlock,

		write(post, "/keys", kw, "keys", "Create a key", handle(s.createKey)).creates(),
		read("/keys", kr, "keys", "List keys by name", handle(s.listKeys), page(
			param{"name_prefix", "string", "names that begin so"},
			param{"algorithm", "string", "an algorithm's name"},
			param{"state", "string", "a state"},
			param{"label", "string", "name, or name=value"})...),
		read("/keys/inventory", kr, "keys", "List keys with their readiness for quantum computers", handle(s.inventory), page(
			param{"name_prefix", "string", "names that begin so"},
			param{"algorithm", "string", "an algorithm's name"},
			param{"state", "string", "a state"},
			param{"label", "string", "name, or name=value"})...),
		read("/keys/import-parameters", kw, "keys", "What is needed to wrap a key for import", handle(s.importParameters),
			param{"backend", "string", "a backend's name; the default one when absent"}),
		write(post, "/keys/import", kw, "keys", "Bring a key made elsewhere", handle(s.importKey)).creates(),
		read("/keys/{key}", kr, "keys", "Show a key", handle(s.showKey)),
		write(patch, "/keys/{key}", kw, "keys", "Rename, label, change policy or minimum versions", handle(s.updateKey)),
		deletion,
		act("/keys/{key}/cancel-deletion", kw, "keys", "Take a scheduled deletion back", handle(s.cancelDeletion)),
		write(post, "/keys/move", kw, "keys", "Move all keys of a filter to another backend, by a job", handle(s.moveKeys)).creates(),
		write(post, "/keys/{key}/move", kw, "keys", "Move a key to another backend, by a job", handle(s.moveKey)).creates(),
		act("/keys/{key}/rotate", kw, "versions", "Make a new version and use it from now on", handle(s.rotate)).repeatable(),
		read("/keys/{key}/versions", kr, "versions", "List the versions of a key", handle(s.listVersions), page()...),
		write(post, "/keys/{key}/versions/{n}/state", kw, "versions", "Change the state of a version", handle(s.setState)),
		read("/keys/{key}/public", kr, "keys", "The public key", handle(s.publicKey),
			param{"format", "string", "pem (default), jwk or raw"},
			param{"version", "integer", "the primary version when absent"},
			param{"include", "string", "fields to add, separated by commas: " + strings.Join(includeTokens(), ", ")}),
		write(post, "/keys/{key}/export", kw, "keys", "Give out an exportable key, wrapped to a key of the caller", handle(s.exportKey)),
		write(post, "/keys/{key}/attestation", kr, "keys", "Evidence of where a key lives, for verification offline", handle(s.attestKey)),
		read("/attestation-key", kr, "keys", "The public key of the service's statements in evidence", handle(s.attestationKey)),

		operate("/keys/{key}/encrypt", "Encrypt", operation[wire.Encrypt, wire.Ciphertext](s.encrypt)),
		operate("/keys/{key}/decrypt", "Decrypt", operation[wire.Decrypt, wire.Plaintext](s.decryptWith)),
		operate("/keys/{key}/rewrap", "Encrypt anew under the primary version, without showing the plaintext", operation[wire.Decrypt, wire.Ciphertext](s.rewrap)),
		operate("/keys/{key}/data-key", "Make a data key", operation[wire.DataKey, wire.DataKeyResult](s.dataKey)),
		operate("/keys/{key}/wrap", "Wrap key material", operation[wire.Wrap, wire.WrappedKey](s.wrap)),
		operate("/keys/{key}/unwrap", "Unwrap key material", operation[wire.Unwrap, wire.Plaintext](s.unwrap)),
		operate("/keys/{key}/sign", "Sign", operation[wire.Sign, wire.Signature](s.sign)),
		operate("/keys/{key}/verify", "Verify a signature", operation[wire.Verify, wire.Validity](s.verify)),
		operate("/keys/{key}/mac", "Compute a MAC", operation[wire.MAC, wire.MACResult](s.mac)),
		operate("/keys/{key}/verify-mac", "Check a MAC", operation[wire.MAC, wire.Validity](s.verifyMAC)),
		operate("/keys/{key}/derive", "Agree on a key with a peer", operation[wire.Derive, wire.DerivedKey](s.derive)),
		operate("/keys/{key}/encapsulate", "Make a shared secret and what carries it to the key", operation[wire.Encapsulate, wire.Encapsulation](s.encapsulate)),
		operate("/keys/{key}/decapsulate", "Recover a shared secret", operation[wire.Decapsulate, wire.SharedSecret](s.decapsulate)),
		operate("/encrypt", "Encrypt with a key named in the body, or the default key", operation[wire.Encrypt, wire.Ciphertext](s.encrypt)),
		operate("/decrypt", "Decrypt: the envelope names the key", operation[wire.Decrypt, wire.Plaintext](s.decryptWith)),
		operate("/data-key", "Make a data key with a key named in the body, or the default key", operation[wire.DataKey, wire.DataKeyResult](s.dataKey)),
		operate("/sign", "Sign with a key named in the body, or the default key", operation[wire.Sign, wire.Signature](s.sign)),
		operate("/verify", "Verify with a key named in the body, or the default key", operation[wire.Verify, wire.Validity](s.verify)),
		operate("/random", "Random bytes", instead[wire.RandomResult](handle(s.random))).small(),

		read("/backends", br, "backends", "All backends, with what they can do", handle(s.listBackends)).or(kr),
		read("/backends/{name}", br, "backends", "One backend", handle(s.showBackend)).or(kr),
		read("/nodes", br, "nodes", "The nodes that run on the store, with what each has open and does", handle(s.listNodes)).or(kr),

		showKEKs,
		act("/backends/{name}/rotate-kek", bw, "backends", "Make the next key over keys on a device, and begin to seal everything of the backend anew", handle(s.rotateKEK)),
		write(post, "/backends/{name}/retire-kek", bw, "backends", "Destroy an earlier key over keys on a device, under which nothing is any more", handle(s.retireKEK)),

		read("/jobs", "", "jobs", "List jobs, newest first: the tenant's with keys:read, the deployment's with nodes:read", handle(s.listJobs), page(
			param{"kind", "string", "what it does, as in move"},
			param{"state", "string", "queued, running, done, failed or cancelled"})...),
		read("/jobs/{id}", "", "jobs", "Show a job, for those who can list it", handle(s.showJob)),
		act("/jobs/{id}/cancel", "", "jobs", "End a job that has not ended: the tenant's with keys:write, the deployment's with backends:write or root:write", handle(s.cancelJob)),

		write(post, "/api-keys", sw, "api-keys", "Make an API key; it is shown this once", handle(s.createAPIKey)).creates(),
		read("/api-keys", sr, "api-keys", "List API keys", handle(s.listAPIKeys), page()...).or(sw),
		read("/api-keys/{id}", sr, "api-keys", "Show an API key, without its secret", handle(s.showAPIKey)).or(sw),
		act("/api-keys/{id}/rotate", "", "api-keys", "Give an API key a new secret; it is shown this once", handle(s.rotateAPIKey)).repeatable(),
		revoke,
		read("/me", "", "api-keys", "Who is calling", handle(s.me)),

		write(post, "/tenants", tw, "tenants", "Make a tenant and its owner's API key, which is shown this once", handle(s.createTenant)).creates(),
		read("/tenants", tr, "tenants", "List tenants", handle(s.listTenants), page()...).or(tw),
		read("/tenants/{id}", "", "tenants", "Show a tenant: the own one, or any with tenants:read", handle(s.showTenant)),
		read("/tenants/{id}/usage", "", "tenants", "Show what a tenant has of its quotas and has done today: the own one, or any with tenants:read", handle(s.tenantUsage)),
		write(patch, "/tenants/{id}", tw, "tenants", "Rename a tenant, or change its quotas", handle(s.updateTenant)),
		act("/tenants/{id}/suspend", tw, "tenants", "Refuse every credential of a tenant; nothing of it is lost", handle(s.suspendTenant)),
		act("/tenants/{id}/resume", tw, "tenants", "End a suspension", handle(s.resumeTenant)),
		recoverTenant,

		read("/settings/keys", kr, "settings", "Which algorithms the tenant takes for new keys", handle(s.keySettings)),
		write(http.MethodPut, "/settings/keys", sw, "settings", "Settle which algorithms the tenant takes for new keys", handle(s.setKeySettings)),

		read("/audit", ar, "audit", "Search the audit log, newest first", handle(s.searchAudit), page(
			param{"key", "string", "a key's id"},
			param{"principal", "string", "who"},
			param{"action", "string", "what"},
			param{"outcome", "string", "ok, or an error code"},
			param{"from", "date-time", "not before"},
			param{"to", "date-time", "before"})...),
		read("/audit/checkpoint", ar, "audit", "The newest checkpoint", handle(s.checkpoint),
			param{"cosigned", "boolean", "the newest one that witnesses have cosigned"}),
		read("/audit/consistency", ar, "audit", "Proof that the log has only grown since an earlier checkpoint", handle(s.consistency),
			param{"from", "integer", "entries of the earlier checkpoint"},
			param{"to", "integer", "entries of the later one; absent: the newest checkpoint, which comes with the answer"}),
		read("/audit/entries/{n}", ar, "audit", "Show an entry of the audit log; 410 when it was pruned", handle(s.auditEntry)),
		read("/audit/entries/{n}/proof", ar, "audit", "Proof that an entry is in the log", handle(s.proof),
			param{"size", "integer", "entries of the checkpoint that the caller has kept; absent: the newest checkpoint, which comes with the answer"}),
		export,

		showRoot,
		write(post, "/root/rotate", rw, "root", "Replace the root and all its slots, and begin to seal everything anew", handle(s.rotateRoot)),
		retireRoot,
		reseal,
		read("/root/slots", rr, "root", "The ways to open the root", handle(s.listSlots)).or(rw),
		addSlot,
		removeSlot,
	}
}

// repeatable takes an Idempotency-Key without being a creation of a resource with an address.
func (r route) repeatable() route {
	r.Creates = true
	return r
}

// or says that another scope does as well.
func (r route) or(scope auth.Scope) route {
	r.Or = scope
	return r
}

func (r route) small() route {
	r.BodyLimit = bodySmall
	return r
}
