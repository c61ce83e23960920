package token

// wayBack gives how a key of a form comes in. The probing has settled on one form for new keys. It may have settled on another when a key was
// made: on other firmware, or while some of the token failed. Keys stay readable in every form that the token has a mechanism for.
func (s *session) wayBack(k kind, form wrapForm) (wrapWay, bool) {
	way := s.d.can[k.Name].wrap
	if way.form == form {
		return way, true
	}
	if way.form == 0 {
		way.style = s.d.style
	}
	// What a template must be like does not depend on the mechanism; which number KWP has was shown by other keys, or is tried.
	for _, a := range s.d.can {
		if a.wrap.form == form {
			way.form, way.mech = form, a.wrap.mech
			return way, true
		}
	}
	p := prober{device: s.d, g: s.gen}
	for _, w := range p.wrapMechanisms() {
		if w.form == form {
			way.form, way.mech = form, w.mech
			return way, true
		}
	}
	return wrapWay{}, false
}
