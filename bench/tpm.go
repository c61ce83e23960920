package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// tpmSuite measures the service on a TPM in software, swtpm, beside the TPM itself.
type tpmSuite struct {
	settings
	report *report
	dir    string
	count  int // of TPMs and services, for their folders
}

const (
	tpmConns   = 16
	tpmCrowd   = 64
	tpmSlow    = 100 * time.Millisecond
	tpmMaxWait = 5 * time.Second // the backend's default: how long an operation may wait
	tpmGrace   = 500 * time.Millisecond
)

func benchTPM(ctx context.Context, s settings, r *report) error {
	dir, err := os.MkdirTemp("", "kwb-") // a socket's path is short
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // in the system's temporary directory
	t := &tpmSuite{settings: s, report: r, dir: dir}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"fast", t.fast}, {"slow", t.slow}, {"cycle", t.cycle}, {"left", t.left}} {
		if s.tpmPart != "" && s.tpmPart != step.name {
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

// softTPM is a swtpm.
type softTPM struct {
	script, dir          string
	uri, control, socket string
}

// newTPM starts a TPM without endorsement certificates.
func (t *tpmSuite) newTPM(ctx context.Context) (*softTPM, error) {
	t.count++
	m := &softTPM{script: filepath.Join(t.parts, "swtpm.sh"), dir: filepath.Join(t.dir, strconv.Itoa(t.count))}
	if err := os.MkdirAll(filepath.Join(m.dir, "state"), 0o700); err != nil {
		return nil, err
	}
	const script = `vars=$("$1" "$2") && eval "$vars" && printf '%s\n' "$TPM_URI" "$TPM_CONTROL"`
	out, err := command(ctx, "bash", "-c", script, "bench", m.script, m.dir)
	if err != nil {
		return nil, fmt.Errorf("setting swtpm up: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		return nil, errors.New("setting swtpm up: the script has said something else")
	}
	m.uri, m.control, m.socket = lines[0], lines[1], strings.TrimPrefix(lines[0], "tpm:unix:")
	return m, nil
}

// stop ends the TPM.
func (m *softTPM) stop() {
	if _, err := command(context.Background(), m.script, m.dir, "stop"); err != nil {
		fmt.Fprintln(os.Stderr, "bench: stopping swtpm:", err)
	}
}

// cycle powers the TPM off and on.
func (m *softTPM) cycle(ctx context.Context) error {
	_, err := command(ctx, "swtpm_ioctl", "--unix", m.control, "-i")
	return err
}

// proxy puts one before the TPM.
func (m *softTPM) proxy() (*rig.TPMProxy, error) {
	return rig.NewTPMProxy(filepath.Join(m.dir, "proxy"), "unix", m.socket)
}

// onTPM is a service with a P-256 key on a TPM, which is its first backend.
type onTPM struct {
	*target
	process *process
	public  *ecdsa.PublicKey
}

func (t *tpmSuite) start(ctx context.Context, uri string) (*onTPM, error) {
	t.count++
	dir := filepath.Join(t.dir, "service-"+strconv.Itoa(t.count))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := startService(ctx, t.binary, dir, "--backend", "tpm="+uri)
	if err != nil {
		return nil, err
	}
	s := &onTPM{target: keywrightTarget(p), process: p}
	if err := s.prepare(ctx); err != nil {
		stopQuietly(p)
		return nil, err
	}
	return s, nil
}

// prepare makes the key and reads its public half.
func (s *onTPM) prepare(ctx context.Context) error {
	if err := s.createKey(ctx, "p256", "ECDSA-P256"); err != nil {
		return err
	}
	var v struct {
		Data struct {
			PublicKey string `json:"public_key"`
		} `json:"data"`
	}
	if err := s.call(ctx, http.MethodGet, "/keys/p256/public", nil, &v); err != nil {
		return err
	}
	block, _ := pem.Decode([]byte(v.Data.PublicKey))
	if block == nil {
		return errors.New("the public key is not PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	var ok bool
	if s.public, ok = k.(*ecdsa.PublicKey); !ok {
		return errors.New("the public key is of another kind")
	}
	return nil
}

// fast is the TPM as fast as it is: signatures over REST against the same command, prepared once and written straight to the socket; in turns.
func (t *tpmSuite) fast(ctx context.Context) error {
	bare, err := t.newTPM(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	raw, err := openRawTPM(ctx, bare.socket)
	if err != nil {
		return err
	}
	defer raw.close()
	m, err := t.newTPM(ctx)
	if err != nil {
		return err
	}
	defer m.stop()
	s, err := t.start(ctx, m.uri)
	if err != nil {
		return err
	}
	defer stopQuietly(s.process)
	var processor []float64 // seconds of the service for one signature
	rest := func(conns int) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			w := s.sign("p256")
			run(ctx, conns, limits{duration: t.duration / 8}, w)
			before, err := processorTime(s.process.cmd.Process.Pid)
			if err != nil {
				return 0, err
			}
			r := run(ctx, conns, limits{duration: t.duration}, w)
			if r.failed > 0 || r.ok == 0 {
				return 0, fmt.Errorf("%d failed, %d done; first: %w", r.failed, r.ok, r.first)
			}
			after, err := processorTime(s.process.cmd.Process.Pid)
			processor = append(processor, (after-before)/float64(r.ok))
			return r.itemsPerSecond(), err
		}
	}
	all := []func(context.Context) (float64, error){
		func(context.Context) (float64, error) { return raw.rate(t.duration, raw.sign) },
		rest(tpmConns), rest(1),
		func(context.Context) (float64, error) { return raw.rate(t.duration, raw.signInSession) },
		func(context.Context) (float64, error) { return raw.rate(t.duration, raw.loadSignFlush) },
	}
	taken := make([][]float64, len(all))
	for range t.rounds {
		for i, f := range all {
			v, err := f(ctx)
			if err != nil {
				return err
			}
			taken[i] = append(taken[i], v)
		}
	}
	v := make([]float64, len(all))
	for i := range taken {
		slices.Sort(taken[i])
		v[i] = taken[i][len(taken[i])/2]
	}
	const what = "sign ECDSA-P256"
	t.report.info(what+", straight to the TPM: TPM2_Sign under a password, prepared once", v[0], "/s")
	t.report.info(what+", straight to the TPM: TPM2_Sign in a salted session, which is what the service sends", v[3], "/s")
	t.report.info(what+", straight to the TPM: TPM2_Load, TPM2_Sign, TPM2_FlushContext", v[4], "/s")
	t.report.info(what+", REST, 16 conn", v[1], "/s")
	t.report.add(what+", REST, 16 conn ÷ the same commands straight to the TPM", v[1]/v[3], "", "≥ 0.85", v[1]/v[3] >= 0.85)
	t.report.info(what+", REST, 16 conn ÷ TPM2_Sign under a password", v[1]/v[0], "")
	t.report.info(what+", REST, 16 conn ÷ Load, Sign, Flush", v[1]/v[4], "")
	slices.Sort(processor)
	t.report.info(what+", REST: processor time of the service for one, without its caller's", processor[len(processor)/2]*1e6, "µs")
	t.report.info(what+", REST, 1 conn", v[2], "/s")
	t.report.info(what+", REST, 1 conn ÷ the same commands straight to the TPM", v[2]/v[3], "")
	return nil
}

// slow is a TPM that takes 100 ms longer for a signature, and more callers than it can serve in time.
func (t *tpmSuite) slow(ctx context.Context) error {
	m, err := t.newTPM(ctx)
	if err != nil {
		return err
	}
	defer m.stop()
	p, err := m.proxy()
	if err != nil {
		return err
	}
	defer closeQuietly(p)
	raw, err := openRawTPM(ctx, strings.TrimPrefix(p.URI, "tpm:unix:"))
	if err != nil {
		return err
	}
	p.Slow(uint32(tpm2.TPMCCSign), tpmSlow)
	device, err := raw.rate(10*time.Second, raw.sign)
	raw.close()
	if err != nil {
		return err
	}
	s, err := t.start(ctx, p.URI)
	if err != nil {
		return err
	}
	defer stopQuietly(s.process)
	l := s.newLoad()
	span := max(20*time.Second, 5*t.duration)
	l.run(ctx, tpmCrowd, span, 0)
	r := l.summary()
	what := "of 100 ms, 64 conn: "
	t.report.info("sign ECDSA-P256 of 100 ms, straight to the TPM", device, "/s")
	t.report.info("sign ECDSA-P256 "+what+"signatures", r.steady, "/s")
	t.report.add("sign ECDSA-P256 "+what+"÷ the TPM's rate", r.steady/device, "", "≥ 0.98", r.steady/device >= 0.98)
	t.report.info(what+"refused with 503 and Retry-After", float64(r.refused), "")
	t.report.add(what+"failed in any other way", float64(r.other), "", "0", r.other == 0 && r.refused > 0)
	t.report.add(what+"answers later than the 5 s that an operation may wait", float64(r.late), "", "0", r.late == 0)
	t.report.info(what+"latest answer", r.latest.Seconds(), "s")
	return l.first
}

// cycle powers the TPM off and on under load.
func (t *tpmSuite) cycle(ctx context.Context) error {
	m, err := t.newTPM(ctx)
	if err != nil {
		return err
	}
	defer m.stop()
	s, err := t.start(ctx, m.uri)
	if err != nil {
		return err
	}
	defer stopQuietly(s.process)
	var worst time.Duration
	var refused, other, wrong int
	for range t.rounds {
		l := s.newLoad()
		load, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); l.run(load, tpmConns, time.Minute, 0) }()
		pause(ctx, time.Second)
		at := time.Now()
		err := m.cycle(ctx)
		pause(ctx, 5*time.Second)
		stop()
		<-done
		if err != nil {
			return err
		}
		r := l.summary()
		refused, other, wrong = refused+r.refused, other+r.other, wrong+r.wrong
		if r.lastFailure.After(at) {
			worst = max(worst, r.lastFailure.Sub(at))
		}
		if l.first != nil {
			fmt.Fprintln(os.Stderr, "bench: the first failure:", l.first)
		}
	}
	log, err := os.ReadFile(s.process.log)
	if err != nil {
		return err
	}
	const what = "power cycle under load, 16 conn: "
	met := strings.Count(string(log), "the TPM was reset")
	t.report.add(what+"resets that the service met in "+strconv.Itoa(t.rounds)+" cycles", float64(met), "", "all", met >= t.rounds)
	t.report.add(what+"last error after", worst.Seconds(), "s", "≤ 2", worst <= 2*time.Second)
	t.report.info(what+"refused with 503 and Retry-After", float64(refused), "")
	t.report.add(what+"failed in any other way", float64(other), "", "0", other == 0)
	t.report.add(what+"wrong signatures", float64(wrong), "", "0", wrong == 0)
	return nil
}

// number of an answer, for the table.
func each[T cmp.Ordered](m map[T]int) string {
	var out []string
	for _, k := range slices.Sorted(func(yield func(T) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}) {
		out = append(out, fmt.Sprintf("%v: %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}

func signBody(message []byte) ([]byte, error) {
	return json.Marshal(map[string]any{"message": message})
}
