// Command bench measures a running service over HTTP and ends in a table: closed loop at 1, 16 and 64 connections, open loop
// at a fixed rate, batches, key creation, memory, and the same with a million keys in the store. With -only hsm it measures
// the service on a SoftHSM2 token beside the module itself, and how it heals when the token fails; with -only tpm, on a swtpm beside
// the TPM itself; with -only pq the post-quantum operations beside the code that computes them, and very many sealed keys; with -only postgres, the service on PostgreSQL beside the embedded default; with -only reseal, everything
// being sealed anew under load. Beside the
// service it measures, in the same run and in turns, the floor: a bare Gin handler that does the same AEAD and JSON and nothing
// else. Any address that speaks Vault's transit API can be measured with the same work (-transit).
//
// All traffic stays on this machine. Ratios within one run are what counts: absolute figures are those of the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// settings of a run; the defaults are those of `make bench`.
type settings struct {
	binary   string
	off      string
	duration time.Duration
	rounds   int
	keys     uint64
	out      string
	transit  string
	token    string
	only     string
	parts    string
	part     string
	tpmPart  string
	tpmOps   int
	pqPart   string
	kills    time.Duration
	tries    int
	nodePart string
	share    float64
	postgres bool

	logEntries  uint64
	logData     string
	logPostgres bool
}

func main() {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "floor":
			err = serveFloor()
		case "raw":
			err = serveRaw(os.Args[2:])
		case "raw-pq":
			err = serveRawPQ(os.Args[2:])
		default:
			measure()
		}
		if err != nil {
			fail(err)
		}
		return
	}
	measure()
}

func measure() {
	var s settings
	flag.StringVar(&s.binary, "binary", "bin/keywright", "the service's binary")
	flag.StringVar(&s.off, "unaudited", "bin/keywright-unaudited", "with -only audit, the program that records no operation")
	flag.DurationVar(&s.duration, "duration", 4*time.Second, "length of one measurement")
	flag.IntVar(&s.rounds, "rounds", 3, "measurements of each kind; the median counts")
	flag.Uint64Var(&s.keys, "keys", 1_000_000, "keys in the store for the large measurements; 0 leaves them out; of sealed keys at most 100,000")
	flag.StringVar(&s.out, "out", "bench/out", "folder for table and plots")
	flag.StringVar(&s.transit, "transit", "", "address of a service with Vault's transit API to measure beside (loopback only)")
	flag.StringVar(&s.only, "only", "", "measure this alone: single, open, batch, sign, create, million, hsm, tpm, pq, postgres, nodes, keyspace, access, audit, log or reseal")
	flag.StringVar(&s.parts, "parts", "softhsm-test", "folder of the scripts that set SoftHSM, swtpm and PostgreSQL up, and of the fault module")
	flag.StringVar(&s.part, "hsm-part", "", "with -only hsm, this part alone: fast, slow, child, others, heal or pin")
	flag.StringVar(&s.tpmPart, "tpm-part", "", "with -only tpm, this part alone: fast, slow, cycle or left")
	flag.IntVar(&s.tpmOps, "tpm-ops", 20_000, "with -only tpm, operations with faults after which nothing may be left over")
	flag.StringVar(&s.pqPart, "pq-part", "", "with -only pq, this part alone: batch, single or sealed")
	flag.Float64Var(&s.share, "reseal-share", 0.15, "with -only reseal, of the time that the re-sealing works")
	flag.BoolVar(&s.postgres, "reseal-postgres", false, "with -only reseal, on PostgreSQL")
	flag.StringVar(&s.nodePart, "nodes-part", "", "with -only nodes, this part alone: rate, revoke, kill or database")
	flag.DurationVar(&s.kills, "nodes-kill", time.Minute, "with -only nodes, how long one of four nodes is killed each second")
	flag.IntVar(&s.tries, "nodes-tries", 50, "with -only nodes, how many API keys are revoked")
	flag.Uint64Var(&s.logEntries, "log-entries", 10_000_000, "with -only log, entries of the audit log; 10 million take ten gigabytes with their export")
	flag.StringVar(&s.logData, "log-data", "", "with -only log, folder that keeps the log for another run")
	flag.BoolVar(&s.logPostgres, "log-postgres", false, "with -only log, on PostgreSQL")
	token := flag.String("transit-token-file", "", "file with its token")
	flag.Parse()
	if *token != "" {
		b, err := os.ReadFile(*token)
		if err != nil {
			fail(err)
		}
		s.token = string(trimSpace(b))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, s); err != nil {
		stop()
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}
