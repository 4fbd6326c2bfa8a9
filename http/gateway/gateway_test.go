package gateway

import (
	"encoding/json"
	"testing"
)

func TestLLM_4_TheLimitIsReadAsTheProviderReadsIt(t *testing.T) {
	for name, c := range map[string]struct {
		body, lowered string
		max           int64
	}{
		"other bytes stay":         {`{ "a":{"max_tokens":9},"max_tokens" : 500 ,"model":"m","messages":[]}`, `{ "a":{"max_tokens":9},"max_tokens" : 7 ,"model":"m","messages":[]}`, 500},
		"another case is no limit": {`{"max_tokens":500,"Max_Tokens":1,"MAX_TOKENS":2}`, `{"max_tokens":7,"Max_Tokens":1,"MAX_TOKENS":2}`, 500},
		"an escaped name is one":   {`{"max\u005ftokens":500}`, `{"max\u005ftokens":7}`, 500},
		"the last of duplicates":   {`{"max_tokens":900,"x":[1,2],"max_tokens":500}`, `{"max_tokens":7,"x":[1,2],"max_tokens":7}`, 500},
	} {
		r, err := parse([]byte(c.body))
		if err != nil || r.MaxTokens == nil || *r.MaxTokens != c.max {
			t.Errorf("%s: %v %v", name, r.MaxTokens, err)
			continue
		}
		if got := string(r.lowered([]byte(c.body), 7)); got != c.lowered {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, body := range []string{``, `[]`, `{`, `{}x`, `{"max_tokens":"5"}`, `{"max_tokens":1.5}`, `{"messages":{}}`, `{"thinking":[]}`, `{"max_tokens":1e99}`} {
		if _, err := parse([]byte(body)); err == nil {
			t.Errorf("%q was accepted", body)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"max_tokens":900,"max\u005ftokens":3,"messages":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body)
		if err != nil || len(r.limits) == 0 {
			return
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal(r.lowered(body, 7), &got); err != nil || string(got["max_tokens"]) != "7" {
			t.Fatalf("%q: %v", body, err)
		}
	})
}
