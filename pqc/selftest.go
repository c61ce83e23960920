package pqc

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/keywright/keywright/fault"
)

// Failure is an algorithm that did not pass its self-test.
type Failure struct {
	Algorithm string
	Err       error // fault.Internal
}

// PowerOn runs the self-test of every algorithm that is named, or of all when none is, and gives those that passed, in the order of the
// table. Whoever offers algorithms offers these and no others, and reports the failures. Names that are not in the table are failures too.
func PowerOn(names ...string) (passed []*Algorithm, failed []Failure) {
	return powerOn(table, names)
}

func powerOn(rows []*Algorithm, names []string) (passed []*Algorithm, failed []Failure) {
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[n] = true
	}
	// The tests of all together take a quarter of a second of one processor: they run on all there are.
	var chosen []*Algorithm
	for _, a := range rows {
		if len(names) == 0 || wanted[a.info.Name] {
			delete(wanted, a.info.Name)
			chosen = append(chosen, a)
		}
	}
	errs := make([]error, len(chosen))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(chosen)); i = next.Add(1) - 1 {
				errs[i] = chosen[i].SelfTest()
			}
		})
	}
	wg.Wait()
	for i, a := range chosen {
		if errs[i] != nil {
			failed = append(failed, Failure{a.info.Name, errs[i]})
			continue
		}
		passed = append(passed, a)
	}
	for _, n := range names {
		if wanted[n] {
			failed = append(failed, Failure{n, fault.New(fault.BadAlgorithm, "there is no such algorithm")})
		}
	}
	return passed, failed
}

// runTest makes one kind of fault of whatever goes wrong in a test, a panic too: a broken algorithm must not take the service down.
func runTest(a *Algorithm, test func(*Algorithm) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.New(fault.Internal, "the self-test of "+a.info.Name+" panicked")
		}
	}()
	if err := test(a); err != nil {
		return fault.Wrap(fault.Internal, "the self-test of "+a.info.Name+" failed", err)
	}
	return nil
}
