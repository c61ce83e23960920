package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keywright/keywright/softhsm-test/rig"
)

// mishap is something that a proxy does to one command in so many.
type mishap struct {
	name  string
	every int
	fault rig.TPMFault
}

// mishaps are what TPMs and their lines do. Codes: TPM 2.0 part 2, section 6.6.3.
func mishaps() []mishap {
	return []mishap{
		{"TPM_RC_RETRY", 500, rig.TPMFault{Answer: rig.TPMRefusal(0x922)}},
		{"TPM_RC_YIELDED", 1000, rig.TPMFault{Answer: rig.TPMRefusal(0x908)}},
		{"TPM_RC_TESTING", 1000, rig.TPMFault{Answer: rig.TPMRefusal(0x90a)}},
		{"TPM_RC_OBJECT_MEMORY", 1000, rig.TPMFault{Answer: rig.TPMRefusal(0x902)}},
		{"TPM_RC_SESSION_MEMORY", 2000, rig.TPMFault{Answer: rig.TPMRefusal(0x903)}},
		{"TPM_RC_REFERENCE_S0", 2000, rig.TPMFault{Answer: rig.TPMRefusal(0x918)}},
		{"line cut before", 5000, rig.TPMFault{CutBefore: true}},
		{"line cut after", 5000, rig.TPMFault{CutAfter: true}},
	}
}

// strike gives the proxy's decision: the same faults in every run.
func strike(made map[string]int, mu *sync.Mutex) func([]byte) rig.TPMFault {
	source := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // which command fails is no secret
	all := mishaps()
	return func([]byte) rig.TPMFault {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range all {
			if source.IntN(m.every) == 0 {
				made[m.name]++
				return m.fault
			}
		}
		return rig.TPMFault{}
	}
}

// left drives operations through a line that fails, powers the TPM off and on in the first half, and looks at what the TPM has loaded at the end.
func (t *tpmSuite) left(ctx context.Context) error {
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
	s, err := t.start(ctx, p.URI)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			stopQuietly(s.process)
		}
	}()
	made, mu := map[string]int{}, sync.Mutex{}
	p.Intercept(strike(made, &mu))
	l := s.newLoad()
	load, stop := context.WithCancel(ctx)
	cycles := 0
	var beside sync.WaitGroup
	var cycling error
	beside.Go(func() {
		for {
			// Not in the second half: a power cycle takes away what was left over.
			if pause(load, 2*time.Second); load.Err() != nil || l.summary().ok > t.tpmOps/2 {
				return
			}
			if cycling = m.cycle(ctx); cycling != nil {
				return
			}
			cycles++
		}
	})
	start := time.Now()
	l.run(ctx, tpmConns, 24*time.Hour, t.tpmOps)
	took := time.Since(start)
	stop()
	beside.Wait()
	p.Intercept(nil)
	r := l.summary()
	stopped = true
	stopQuietly(s.process)
	after, err := loaded(ctx, m.socket)
	if err != nil {
		return err
	}
	mu.Lock()
	faults := maps.Clone(made)
	mu.Unlock()
	fmt.Fprintf(os.Stderr, "bench: faults: %s\n", each(faults))
	sum := 0
	for _, n := range faults {
		sum += n
	}
	what := strconv.Itoa(r.ok) + " signatures with faults: "
	t.report.info(what+"faults on the line", float64(sum), "")
	t.report.info(what+"power cycles", float64(cycles), "")
	t.report.info(what+"signatures", float64(r.ok)/took.Seconds(), "/s")
	t.report.info(what+"refused with 503 and Retry-After", float64(r.refused), "")
	t.report.add(what+"failed in any other way", float64(r.other), "", "0", r.other == 0)
	t.report.add(what+"wrong signatures", float64(r.wrong), "", "0", r.wrong == 0)
	t.report.add(what+"objects and sessions left over when it has ended", float64(after), "", "0", after == 0)
	if l.first != nil {
		fmt.Fprintln(os.Stderr, "bench: the first failure:", l.first)
	}
	return cycling
}

// loaded asks a TPM that nobody else has for its transient objects and loaded sessions (TPM2_GetCapability).
func loaded(ctx context.Context, socket string) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // nothing is to come
	r := &rawTPM{conn: conn}
	n := 0
	for _, first := range []uint32{0x80000000, 0x02000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 254}.Execute(r)
		if err != nil {
			return 0, err
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return 0, err
		}
		n += len(list.Handle)
	}
	return n, nil
}
