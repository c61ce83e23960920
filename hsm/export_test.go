package hsm

// ParseSealedText is parseSealedText for the tests.
func ParseSealedText(b []byte) (generation uint32, header, body []byte, ok bool) {
	p, ok := parseSealedText(b)
	return p.generation, p.header, p.body, ok
}
