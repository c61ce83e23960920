package api

import (
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// Cookies of the service. The prefix __Host- holds a browser to Secure, the whole path and this very host (RFC 6265bis section 4.1.3.2).
const (
	sessionCookie = "__Host-keywright-session"
	loginCookie   = "__Host-keywright-login"
)

// maxCookie bounds the value of a cookie that is looked at, in bytes.
const maxCookie = 6144

// cookieOf finds a cookie of ours by its exact name, and how many of that name there are: two are as good as none. The value is as it was sent. What else
// is in the header is others' business, however malformed.
func cookieOf(h http.Header, name string) (value string, n int) {
	for _, line := range h["Cookie"] {
		for more := true; more; {
			var pair string
			pair, line, more = strings.Cut(line, ";")
			pair = strings.Trim(pair, " \t")
			if got, is := strings.CutPrefix(pair, name); is && strings.HasPrefix(got, "=") {
				value, n = got[1:], n+1
			} else if is && got == "" {
				value, n = "", n+1 // without a value, as some send it
			}
		}
	}
	if n != 1 || len(value) > maxCookie {
		return "", n
	}
	return value, n
}

// setCookie makes a browser keep a cookie of ours for some time, to the second; 0: it forgets it.
func (c *call) setCookie(name, value string, keep time.Duration, mode http.SameSite) {
	k := http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(keep / time.Second), Secure: true, HttpOnly: true, SameSite: mode} //nolint:gosec // mode is Strict or Lax
	if k.MaxAge <= 0 {
		k.Value, k.MaxAge = "", -1 // "Max-Age=0"
	}
	h := c.gin.Writer.Header()
	h["Set-Cookie"] = append(h["Set-Cookie"], k.String())
}

// forgetSession makes a browser forget a session that is no more.
func (c *call) forgetSession() { c.setCookie(sessionCookie, "", 0, http.SameSiteStrictMode) }

// cookieEncoding is what bytes are in a cookie.
var cookieEncoding = base64.RawURLEncoding.Strict()
