package main

import (
	"bytes"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"troupe/actors/agent"
)

// metrics are the node's own counters (OBS-5). No label holds an id, a text or anything a caller chooses freely.
type metrics struct {
	reg         *prometheus.Registry
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	sendAck     prometheus.Histogram
	activations *prometheus.GaugeVec
	turns       *prometheus.HistogramVec
	wakes       *prometheus.HistogramVec
	pods        *prometheus.GaugeVec
	fenced      *prometheus.CounterVec
	llmTokens   *prometheus.CounterVec
	llmCalls    *prometheus.CounterVec
	restarts    *prometheus.CounterVec
	kube        *prometheus.CounterVec
	orphans     prometheus.Gauge
	lag         prometheus.Histogram
	deliveries  *prometheus.CounterVec
	chat        *prometheus.CounterVec
	bots        *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{reg: prometheus.NewRegistry()}
	fast := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	slow := []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_http_requests_total", Help: "Requests by route."}, []string{"route", "method", "code"})
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "troupe_http_request_seconds", Help: "Time to answer.", Buckets: fast}, []string{"route", "method"})
	m.sendAck = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "troupe_send_ack_seconds", Help: "Time to accept a message durably.", Buckets: fast})
	m.activations = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "troupe_activations", Help: "Activations on this node."}, []string{"kind"})
	m.turns = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "troupe_turn_seconds", Help: "Length of turns.", Buckets: slow}, []string{"outcome"})
	m.wakes = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "troupe_wake_seconds", Help: "From a startable message to the start of its turn.", Buckets: slow}, []string{"kind"})
	m.pods = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "troupe_pods", Help: "Pods of agents activated here."}, []string{"status"})
	m.fenced = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_fence_rejections_total", Help: "Writes refused because another activation owns the agent."}, []string{"kind"})
	m.llmTokens = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_llm_tokens_total", Help: "Tokens of model calls."}, []string{"type", "model"})
	m.llmCalls = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_llm_requests_total", Help: "Model calls by answer."}, []string{"code"})
	m.restarts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_activation_failures_total", Help: "Activations stopped because they panicked."}, []string{"kind"})
	m.kube = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_kubernetes_calls_total", Help: "Calls to the Kubernetes API server."}, []string{"op", "outcome"})
	m.orphans = prometheus.NewGauge(prometheus.GaugeOpts{Name: "troupe_orphan_volumes", Help: "Volumes whose agent the store does not know, as the sweeping node saw last."})
	m.lag = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "troupe_schedule_lag_seconds", Help: "From a slot of a schedule to its message.", Buckets: fast})
	m.deliveries = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_webhook_deliveries_total", Help: "Attempts at webhook deliveries, by what became of them."}, []string{"event", "result"})
	m.chat = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "troupe_channel_messages_total", Help: "Messages from and parts to chat networks, by what became of them."}, []string{"channel", "direction", "result"})
	m.bots = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "troupe_bots", Help: "Bots whose line this node holds."}, []string{"channel"})
	m.reg.MustRegister(m.chat, m.bots, m.deliveries, m.lag, m.kube, m.orphans, m.requests, m.seconds, m.sendAck, m.activations, m.turns, m.wakes, m.pods, m.fenced, m.llmTokens, m.llmCalls, m.restarts,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) Request(route, method string, code int, took time.Duration) {
	m.requests.WithLabelValues(route, method, strconv.Itoa(code)).Inc()
	m.seconds.WithLabelValues(route, method).Observe(took.Seconds())
}

// ScheduleLag is how late a schedule fired.
func (m *metrics) ScheduleLag(late time.Duration) { m.lag.Observe(late.Seconds()) }

// Delivery counts an attempt at a webhook delivery: delivered, retried or dead.
func (m *metrics) Delivery(event, result string) { m.deliveries.WithLabelValues(event, result).Inc() }

// ChatMessage counts a message from, or a part of a reply to, a chat network.
func (m *metrics) ChatMessage(channel, direction, result string) {
	m.chat.WithLabelValues(channel, direction, result).Inc()
}

// Connected counts the lines of bots.
func (m *metrics) Connected(channel agent.Channel, delta int) {
	m.bots.WithLabelValues(string(channel)).Add(float64(delta))
}

// Kubernetes counts a call to the API server.
func (m *metrics) Kubernetes(op string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.kube.WithLabelValues(op, outcome).Inc()
}

func (m *metrics) Fenced(kind string) { m.fenced.WithLabelValues(kind).Inc() }

func (m *metrics) TurnEnded(outcome agent.Outcome, took time.Duration) {
	m.turns.WithLabelValues(string(outcome)).Observe(took.Seconds())
}

func (m *metrics) Woken(kind string, took time.Duration) {
	m.wakes.WithLabelValues(kind).Observe(took.Seconds())
}

func (m *metrics) Activated(delta int) { m.activations.WithLabelValues("agent").Add(float64(delta)) }

func (m *metrics) PodStatus(from, to agent.PodStatus) {
	m.pods.WithLabelValues(string(from)).Dec()
	m.pods.WithLabelValues(string(to)).Inc()
}

func (m *metrics) ModelCall(code int) { m.llmCalls.WithLabelValues(strconv.Itoa(code)).Inc() }

// knownModels keeps the label's set small: anything else is counted as other.
var knownModels = map[string]bool{agent.DefaultModel: true, agent.DefaultCompactWith: true}

func (m *metrics) ModelTokens(kind, model string, n int64) {
	if !knownModels[model] {
		model = "other"
	}
	m.llmTokens.WithLabelValues(kind, model).Add(float64(n))
}

// page renders the metrics in the text format.
func (m *metrics) page() []byte {
	families, err := m.reg.Gather()
	var b bytes.Buffer
	if err != nil {
		return nil
	}
	for _, f := range families {
		_, _ = expfmt.MetricFamilyToText(&b, f) // a buffer cannot fail
	}
	return b.Bytes()
}
