package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTRIG_5_PayloadsOfWellKnownSenders: the shapes of testdata/payloads follow the senders' documentation. Each is sent with the proof and
// the id that its sender can give.
func TestTRIG_5_PayloadsOfWellKnownSenders(t *testing.T) {
	w := startWorld(t, nil)
	id := w.agent(nil)
	w.want(w.call("POST", "/v1/agent/"+id+"/pause", nil), 200)
	for _, tt := range []struct {
		sender, template, want string
		header                 func(at address, body string) []string
	}{
		{"github", "{{payload.action}} {{payload.repository.full_name}}#{{payload.issue.number}} ({{payload.issue.id}}): {{payload.issue.title}} [{{payload.issue.labels[0].name}}] {{payload.issue.assignee}}by {{payload.sender.login}}",
			`opened acme/api#1347 (3012345678901234567): Login fails with "invalid state" {{payload.issue.id}} [bug] by octo-reporter`,
			func(at address, body string) []string {
				return []string{"X-Webhook-Secret", "", "X-Hub-Signature-256", signed(at.secret, body), "X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958", "X-GitHub-Event", "issues", "User-Agent", "GitHub-Hookshot/044aadd"}
			}},
		{"stripe", "{{payload.type}} of {{payload.data.object.customer_email}}: {{payload.data.object.amount_due}} {{payload.data.object.currency}} at {{payload.data.object.tax_rate}}, live {{payload.livemode}}, {{payload.data.object.lines.data[0].description}}",
			"invoice.payment_failed of pay@acme.test: 12900 eur at 0.190, live true, 1 × Pro (at €129.00 / month)",
			func(at address, _ string) []string { // through a forwarder: Stripe itself cannot send a header of ours
				return []string{"Idempotency-Key", "evt_1NG8Du2eZvKYlo2CUI79vXWy"}
			}},
		{"grafana", "{{payload.title}}: {{payload.alerts[0].annotations.summary}}, B={{payload.alerts[0].values.B}}{{payload.alerts[1].labels}}",
			"[FIRING:1]  (High memory usage blue us-1): Memory above 90 %, B=44.23943737541908",
			func(at address, body string) []string { // an extra header of the contact point
				return nil
			}},
		{"alertmanager", "{{payload.status}} {{payload.groupLabels.alertname}}: {{payload.alerts[0].labels.instance}}, {{payload.alerts[1].labels.instance}} {{payload.alerts[1].status}} {{payload.commonAnnotations}}",
			`firing InstanceDown: 10.0.0.7:9100, 10.0.0.8:9100 resolved {"summary":"Instance down"}`,
			func(at address, body string) []string { // http_headers of its http_config
				return []string{"User-Agent", "Alertmanager/0.34.2"}
			}},
	} {
		t.Run(tt.sender, func(t *testing.T) {
			w := *w
			w.t = t
			raw, err := os.ReadFile(filepath.Join("testdata", "payloads", tt.sender+".json"))
			if err != nil {
				t.Fatal(err)
			}
			_, at := w.trigger(id, map[string]any{"name": tt.sender, "message_template": tt.template})
			header := tt.header(at, string(raw))
			a := w.want(w.fire(at, string(raw), header...), 202)
			m := w.want(w.call("GET", "/v1/agent/"+id+"/messages/"+a.str("message_id"), nil), 200)
			if m.str("content") != tt.want {
				t.Errorf("got  %s\nwant %s", m.str("content"), tt.want)
			}
			again := w.want(w.fire(at, string(raw), header...), 202)
			known := strings.Contains(strings.Join(header, " "), "Idempotency-Key") || strings.Contains(strings.Join(header, " "), "X-GitHub-Delivery")
			if same := again.str("message_id") == a.str("message_id"); same != known {
				t.Errorf("TRIG-7: sent twice, the second is the same message: %v", same)
			}
		})
	}
}
