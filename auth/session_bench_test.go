package auth

import "testing"

// BenchmarkAuthenticateSession is the door for a session that is known: a read, and a change with its CSRF token.
func BenchmarkAuthenticateSession(b *testing.B) {
	r := newRig(b)
	_, presented := r.open(b, r.person(RoleOwner))
	token := CSRFToken(presented)
	for name, u := range map[string]*SessionUse{"read": {Token: presented}, "change": {Token: presented, Changes: true, CSRF: token}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := r.AuthenticateSession(b.Context(), u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
