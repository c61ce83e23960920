package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/go-json-experiment/json"
)

// pqSuite measures post-quantum operations beside the code that computes them, beside a classical signature, and with very many
// sealed keys on an HSM. It takes the ways of hsmSuite.
type pqSuite struct {
	hsmSuite
}

func benchPQ(ctx context.Context, s settings, r *report) error {
	dir, err := os.MkdirTemp("", "keywright-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	b := &pqSuite{hsmSuite{settings: s, report: r, dir: dir}}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"batch", b.batches}, {"single", b.single}, {"sealed", b.sealed}} {
		if s.pqPart != "" && s.pqPart != step.name || step.name == "sealed" && s.keys == 0 {
			continue
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// software starts a service on its embedded default.
func (b *pqSuite) software(ctx context.Context, name string) (*onToken, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := startService(ctx, b.binary, dir)
	if err != nil {
		return nil, err
	}
	return &onToken{keywrightTarget(p), p}, nil
}

// circl is a runner of `bench raw-pq`.
func (b *pqSuite) circl(op string) runner {
	return runner{"circl, " + op, func(ctx context.Context) (figures, error) {
		return runRaw(ctx, 1, "raw-pq", "-op", op, "-duration", b.duration.String())
	}}
}

// batches is the batch API against circl alone on all the cores that service and load generator have together.
func (b *pqSuite) batches(ctx context.Context) error {
	s, err := b.software(ctx, "batch")
	if err != nil {
		return err
	}
	defer stopQuietly(s.process)
	if err := errors.Join(s.createKey(ctx, "mldsa", "ML-DSA-65"), s.createKey(ctx, "mlkem", "ML-KEM-768")); err != nil {
		return err
	}
	ciphertext, err := s.encapsulated(ctx, "mlkem")
	if err != nil {
		return err
	}
	// Batches count when they are done, and sixteen of signatures take a second: so they are measured by number, and none is cut off.
	for _, op := range []struct {
		name, raw string
		work      work
		batches   uint64
	}{
		{"ML-KEM-768 decapsulate", "decapsulate", s.decapsulateBatch("mlkem", ciphertext, hsmBatch), 80 * hsmConns},
		{"ML-DSA-65 sign", "sign", s.signBatch("mldsa", hsmBatch), 8 * hsmConns},
	} {
		v, err := b.inTurns(ctx, []runner{b.circl(op.raw), b.rest(op.name, s, op.work, op.batches)})
		if err != nil {
			return err
		}
		raw, rest := v[0], v[1]
		b.report.info(fmt.Sprintf("%s, circl on %d processors", op.name, runtime.GOMAXPROCS(0)), raw.perSecond, "/s")
		b.report.info(op.name+", batches of 100, 16 conn", rest.perSecond, "/s")
		ratio := rest.perSecond / raw.perSecond
		b.report.add(op.name+", batches of 100, 16 conn ÷ circl", ratio, "", "≥ 0.80", ratio >= 0.8)
		b.report.info(op.name+", circl: processor time of one", raw.processor*1e6, "µs")
		b.report.info(op.name+", batches: processor time of one, without its caller's", rest.processor*1e6, "µs")
		b.report.info(op.name+", processor time of circl ÷ of the service", raw.processor/rest.processor, "")
	}
	return nil
}

// encapsulated gives a ciphertext for the key, in base64.
func (t *target) encapsulated(ctx context.Context, key string) (string, error) {
	var v struct {
		Data struct {
			Ciphertext []byte `json:"kem_ciphertext"`
		} `json:"data"`
	}
	if err := t.call(ctx, http.MethodPost, "/keys/"+key+"/encapsulate", map[string]string{}, &v); err != nil {
		return "", err
	}
	if len(v.Data.Ciphertext) == 0 {
		return "", errors.New("the answer to encapsulate has no ciphertext")
	}
	return base64.StdEncoding.EncodeToString(v.Data.Ciphertext), nil
}

func (t *target) decapsulateBatch(key, ciphertext string, n int) work {
	body := []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(`{"kem_ciphertext":"`+ciphertext+`"},`, n), ",") + `]}`)
	url := t.url(key, "decapsulate")
	return work{name: fmt.Sprintf("decapsulate batch of %d", n), method: http.MethodPost, header: t.header, status: http.StatusOK, items: n,
		next: func(uint64) (string, []byte) { return url, body },
		check: func(b []byte) error {
			if got := bytes.Count(b, []byte(`"shared_secret"`)); got != n {
				return fmt.Errorf("%d secrets in the answer to %d items", got, n)
			}
			return nil
		}}
}

// signRead is sign with a client that takes the signature out of the answer.
func (t *target) signRead(key string) work {
	w := t.sign(key)
	w.check = func(b []byte) error {
		var v struct {
			Data struct {
				Signature []byte `json:"signature"`
			} `json:"data"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return err
		}
		if len(v.Data.Signature) < 64 {
			return fmt.Errorf("no signature in the answer: %.200s", b)
		}
		return nil
	}
	return w
}

// single is one signature for a request, against ECDSA by the same way.
func (b *pqSuite) single(ctx context.Context) error {
	s, err := b.software(ctx, "single")
	if err != nil {
		return err
	}
	defer stopQuietly(s.process)
	if err := errors.Join(s.createKey(ctx, "mldsa", "ML-DSA-65"), s.createKey(ctx, "p256", "ECDSA-P256")); err != nil {
		return err
	}
	v, err := b.inTurns(ctx, []runner{b.rest("ECDSA P-256", s, s.signRead("p256"), 0), b.rest("ML-DSA-65", s, s.signRead("mldsa"), 0)})
	if err != nil {
		return err
	}
	b.report.info("sign ECDSA P-256, one per request, 16 conn", v[0].perSecond, "/s")
	b.report.info("sign ML-DSA-65, one per request, 16 conn", v[1].perSecond, "/s")
	ratio := v[1].perSecond / v[0].perSecond
	b.report.add("sign, one per request, 16 conn, ML-DSA-65 ÷ ECDSA P-256", ratio, "", "≥ 0.60", ratio >= 0.6)
	b.report.info("sign ECDSA P-256: processor time of one, without its caller's", v[0].processor*1e6, "µs")
	b.report.info("sign ML-DSA-65: processor time of one, without its caller's", v[1].processor*1e6, "µs")
	return nil
}
