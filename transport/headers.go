package transport

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// CORS says which pages of other origins a browser lets read the answers. The zero value: none.
type CORS struct {
	// Origins are exact, as in https://console.example.org: scheme, host, and port if it is not the scheme's own.
	Origins []string
}

// Check refuses what is no origin (RFC 6454 section 7), and the wildcard: whom to trust with an API key's answers is said by name.
func (c CORS) Check() error {
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.Hostname() == "" || u.Scheme+"://"+u.Host != o || strings.Contains(o, "*") {
			return errors.New("an origin is scheme://host or scheme://host:port, exactly, as in https://console.example.org")
		}
		if u.Scheme == "http" && !(Endpoint{Address: u.Hostname() + ":0"}).Loopback() {
			return fmt.Errorf("the origin of http is loopback only: use https for %s", u.Host)
		}
	}
	return nil
}

// Header values that never change, so that no answer has to allocate them. net/http only reads them.
var (
	noStore     = []string{"no-store"}
	noSniff     = []string{"nosniff"}
	nothing     = []string{"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
	deny        = []string{"DENY"}
	noReferrer  = []string{"no-referrer"}
	sameOrigin  = []string{"same-origin"}
	aYear       = []string{"max-age=31536000"}
	varyOrigin  = []string{"Origin"}
	varyAll     = []string{"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
	corsMethods = []string{"GET, HEAD, POST, PUT, PATCH, DELETE"}
	corsHeaders = []string{"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key, X-Request-ID"}
	corsExpose  = []string{"ETag, Retry-After, X-Audit-Index, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-Request-ID"}
	corsAge     = []string{"600"}
)

// Headers gives every answer of h the headers that keep browsers and caches from doing what nobody asked for, and answers CORS preflights
// (Fetch standard, section 3.2.2) of the origins allowed. h may replace any of them. Credentials of the browser (cookies, client certificates)
// are never allowed across origins: an API key is sent by the page itself.
func Headers(h http.Handler, c CORS) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header["Cache-Control"] = noStore
		header["Content-Security-Policy"] = nothing
		header["Cross-Origin-Opener-Policy"] = sameOrigin
		header["Cross-Origin-Resource-Policy"] = sameOrigin
		header["Referrer-Policy"] = noReferrer
		header["X-Content-Type-Options"] = noSniff
		header["X-Frame-Options"] = deny
		if r.TLS != nil {
			header["Strict-Transport-Security"] = aYear // RFC 6797 section 7.2: not over plain HTTP
		}
		if len(c.Origins) > 0 && c.answer(header, r) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// answer sets the headers of CORS, and reports whether the request was a preflight that they answer.
func (c CORS) answer(header http.Header, r *http.Request) bool {
	header["Vary"] = varyOrigin
	origin := r.Header["Origin"]
	if len(origin) != 1 || !slices.Contains(c.Origins, origin[0]) {
		return false
	}
	header["Access-Control-Allow-Origin"] = origin
	if r.Method != http.MethodOptions || len(r.Header["Access-Control-Request-Method"]) == 0 {
		header["Access-Control-Expose-Headers"] = corsExpose
		return false
	}
	header["Vary"] = varyAll
	header["Access-Control-Allow-Methods"] = corsMethods
	header["Access-Control-Allow-Headers"] = corsHeaders
	header["Access-Control-Max-Age"] = corsAge
	return true
}
