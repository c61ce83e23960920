package hsm

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keywright/keywright/backend"
	"github.com/keywright/keywright/hsm/token"
)

// operation is a label of the metrics.
type operation uint8

const (
	opEncrypt operation = iota
	opDecrypt
	opSign
	opMAC
	opAgree
	opWrap
	opUnwrap
	opDecapsulate
	opRandom
	opFind
	opTag
	opMake
	opPlace
	opDestroy
	operations
)

var operationNames = [operations]string{"encrypt", "decrypt", "sign", "mac", "agree", "wrap", "unwrap", "decapsulate", "random", "find", "tag", "make", "place", "destroy"}

// abilities are what a key's token has to have for an operation.
var abilities = [operations]backend.Operation{opEncrypt: backend.OpEncrypt, opDecrypt: backend.OpDecrypt, opSign: backend.OpSign,
	opMAC: backend.OpMAC, opAgree: backend.OpDerive, opWrap: backend.OpWrap, opUnwrap: backend.OpUnwrap, opDecapsulate: backend.OpDecapsulate}

// metrics of a backend. Labels are the backend's name, the member's index, the operation and the state: all bounded.
type metrics struct {
	members   []*member
	histogram *prometheus.HistogramVec
	calls     [][operations]prometheus.Observer // by member
	failCount *prometheus.CounterVec
	copyCount *prometheus.CounterVec
	copies    []prometheus.Counter // by member: copies of keys that were brought later
	failovers []prometheus.Counter // by member: operations that went on to another one
	fromStats []statMetric
	state     *prometheus.Desc
	queue     *prometheus.Desc
	device    *prometheus.Desc
}

// statMetric is one number of a member's statistics.
type statMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*MemberState) float64
}

func newMetrics(name string, members []*member) *metrics {
	labels := prometheus.Labels{"backend": name}
	m := &metrics{members: members}
	m.histogram = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keywright_hsm_call_seconds", Help: "Calls to the token as the service sees them: waiting, transport and device together.", ConstLabels: labels,
		Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"member", "operation"})
	m.failCount = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywright_hsm_failovers_total", Help: "Operations that this member could not do and that were given to another one.", ConstLabels: labels,
	}, []string{"member"})
	m.copyCount = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keywright_hsm_copies_brought_total", Help: "Copies of keys that the member lacked and was brought after their making.", ConstLabels: labels,
	}, []string{"member"})
	for i := range members {
		index := strconv.Itoa(i)
		var calls [operations]prometheus.Observer
		for op := range operations {
			calls[op] = m.histogram.WithLabelValues(index, operationNames[op])
		}
		m.calls = append(m.calls, calls)
		m.copies = append(m.copies, m.copyCount.WithLabelValues(index))
		m.failovers = append(m.failovers, m.failCount.WithLabelValues(index))
	}
	add := func(name, help string, kind prometheus.ValueType, of func(*MemberState) float64) {
		m.fromStats = append(m.fromStats, statMetric{prometheus.NewDesc("keywright_hsm_"+name, help, []string{"member"}, labels), kind, of})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	add("queue_seconds_total", "Time that operations waited for a session, all together.", counter, func(s *MemberState) float64 { return s.Stats.QueueTime.Seconds() })
	add("device_seconds_total", "Time that operations had a session, all together.", counter, func(s *MemberState) float64 { return s.Stats.DeviceTime.Seconds() })
	add("operations_total", "Operations that reached a session.", counter, func(s *MemberState) float64 { return float64(s.Stats.Calls) })
	add("queued", "Operations that wait for a session.", gauge, func(s *MemberState) float64 { return float64(s.Stats.Queued) })
	add("sessions", "Sessions open.", gauge, func(s *MemberState) float64 { return float64(s.Stats.Sessions) })
	add("sessions_in_use", "Sessions in use.", gauge, func(s *MemberState) float64 { return float64(s.Stats.SessionsInUse) })
	add("sessions_dropped_total", "Sessions closed after an error.", counter, func(s *MemberState) float64 { return float64(s.Stats.SessionsDropped) })
	add("reinitialisations_total", "Initialisations of the module after the first.", counter, func(s *MemberState) float64 { return float64(s.Stats.Reinitialisations) })
	add("logins_total", "Logins.", counter, func(s *MemberState) float64 { return float64(s.Stats.Logins) })
	add("logins_refused_total", "Logins that the token refused.", counter, func(s *MemberState) float64 { return float64(s.Stats.LoginsRefused) })
	add("stuck_calls", "Calls given up at their deadline that the module still has.", gauge, func(s *MemberState) float64 { return float64(s.Stats.Stuck) })
	add("breaker_open", "0: closed, 0.5: half open, 1: open.", gauge, func(s *MemberState) float64 {
		switch s.Stats.Breaker {
		case "open":
			return 1
		case "half-open":
			return 0.5
		}
		return 0
	})
	add("healthy", "1: the member gets operations.", gauge, func(s *MemberState) float64 { return yes(s.Healthy) })
	m.queue = prometheus.NewDesc("keywright_hsm_queue_seconds", "How long operations waited for a session.", []string{"member", "operation"}, labels)
	m.device = prometheus.NewDesc("keywright_hsm_device_seconds", "How long operations had a session.", []string{"member", "operation"}, labels)
	m.state = prometheus.NewDesc("keywright_hsm_member_state", "1 for the state that the member is in: missing, joining, refused, healthy or unavailable.", []string{"member", "state"}, labels)
	add("child_restarts_total", "Processes of the module that replaced another.", counter, func(s *MemberState) float64 { return float64(s.Processes.Restarts) })
	add("child_kills_total", "Processes of the module killed for a call past its deadline.", counter, func(s *MemberState) float64 { return float64(s.Processes.Kills) })
	add("child_crashes_total", "Processes of the module that ended by themselves.", counter, func(s *MemberState) float64 { return float64(s.Processes.Crashes) })
	add("children_ready", "Processes of the module that have the token open.", gauge, func(s *MemberState) float64 { return float64(s.Processes.Ready) })
	return m
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe and Collect make metrics a prometheus.Collector. A scrape reads what the watchers have last seen and asks no token.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.histogram.Describe(ch)
	m.failCount.Describe(ch)
	m.copyCount.Describe(ch)
	for _, s := range m.fromStats {
		ch <- s.desc
	}
	ch <- m.state
	ch <- m.queue
	ch <- m.device
}

func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.histogram.Collect(ch)
	m.failCount.Collect(ch)
	m.copyCount.Collect(ch)
	for _, member := range m.members {
		s := member.state()
		for _, state := range states() {
			ch <- prometheus.MustNewConstMetric(m.state, prometheus.GaugeValue, yes(s.State == state), strconv.Itoa(member.index), string(state))
		}
		for i := range s.Stats.Times {
			collect(ch, m.queue, &s.Stats.Times[i].Queue, strconv.Itoa(member.index), token.Timed(i).String())
			collect(ch, m.device, &s.Stats.Times[i].Device, strconv.Itoa(member.index), token.Timed(i).String())
		}
		for _, f := range m.fromStats {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.of(&s), strconv.Itoa(member.index))
		}
	}
}

// collect gives a token's histogram, if anything was counted in it.
func collect(ch chan<- prometheus.Metric, desc *prometheus.Desc, h *token.Histogram, labels ...string) {
	buckets, below := make(map[float64]uint64, token.TimeBuckets), uint64(0)
	for i := range token.TimeBuckets {
		below += h.Counts[i]
		buckets[token.TimeBound(i).Seconds()] = below
	}
	if all := below + h.Counts[token.TimeBuckets]; all > 0 {
		ch <- prometheus.MustNewConstHistogram(desc, all, h.Sum.Seconds(), buckets, labels...)
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(m); err != nil {
		return fmt.Errorf("hsm: registering metrics: %w", err)
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r != nil {
		r.Unregister(m)
	}
}
