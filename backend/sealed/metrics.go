package sealed

import "github.com/prometheus/client_golang/prometheus"

// collector reads the cache's own counters when it is scraped, so that the hot path counts under the lock it holds anyway.
type collector struct {
	cache                                  *cache
	hits, misses, evictions, gauges, bytes *prometheus.Desc
}

func newCollector(backend string, c *cache) *collector {
	labels := prometheus.Labels{"backend": backend}
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("keywright_sealed_cache_"+name, help, nil, labels)
	}
	return &collector{cache: c,
		hits:      desc("hits_total", "Loads of sealed keys that found the material opened."),
		misses:    desc("misses_total", "Loads of sealed keys that had to ask the sealer or wait for it."),
		evictions: desc("evictions_total", "Opened materials dropped for want of room or because their time was over."),
		gauges:    desc("entries", "Opened materials in memory."),
		bytes:     desc("bytes", "About what the opened materials take in memory."),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.hits, c.misses, c.evictions, c.gauges, c.bytes} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	n := c.cache.stats()
	ch <- prometheus.MustNewConstMetric(c.hits, prometheus.CounterValue, float64(n.hits))
	ch <- prometheus.MustNewConstMetric(c.misses, prometheus.CounterValue, float64(n.misses))
	ch <- prometheus.MustNewConstMetric(c.evictions, prometheus.CounterValue, float64(n.evicted))
	ch <- prometheus.MustNewConstMetric(c.gauges, prometheus.GaugeValue, float64(n.entries))
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(c.cache.bytes.Load()))
}

type stats struct {
	hits, misses, evicted uint64
	entries               int
}

func (c *cache) stats() stats {
	var n stats
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n.hits += s.hits
		n.misses += s.misses
		n.evicted += s.evicted
		n.entries += len(s.entries)
		s.mu.Unlock()
	}
	return n
}
