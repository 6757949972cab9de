package csr

import (
	"strings"
	"testing"
	"time"
)

func TestRulesAreCheckedWhenTheyAreRead(t *testing.T) {
	for name, test := range map[string]struct {
		rules []Rule
		want  string // part of the error; empty: fine
	}{
		"fine":                    {[]Rule{{Name: "a", DenyIf: `request.dnsNames.exists(n, n.endsWith(".example.com"))`}}, ""},
		"all variables":           {[]Rule{{Name: "a", Match: `node != null && machine != null`, WaitIf: `csr.spec.username == "x" && node.metadata.labels["a"] == "b" && machine.status.phase != "Running" && evidence.all(e, e.ok) && now > csr.metadata.creationTimestamp`}}, ""},
		"address ranges":          {[]Rule{{Name: "a", WaitIf: `request.ipAddresses.exists(a, !cidr("10.0.0.0/8").containsIP(a))`}}, ""},
		"misspelled field":        {[]Rule{{Name: "a", DenyIf: `request.dnsName == []`}}, "denyIf: 1:8: undefined field 'dnsName'"},
		"misspelled variable":     {[]Rule{{Name: "a", DenyIf: `requests.dnsNames == []`}}, "undeclared reference to 'requests'"},
		"not a condition":         {[]Rule{{Name: "a", DenyIf: `request.dnsNames`}}, "not bool"},
		"syntax":                  {[]Rule{{Name: "a", Match: `1 +`, DenyIf: `true`}}, "match: 1:"},
		"place on its line":       {[]Rule{{Name: "a", AllowIf: "true &&\n  request.nodes == 'x'"}}, "rules[0] (a): allowIf: 2:10: undefined field 'nodes'"},
		"no place":                {[]Rule{{Name: "a", DenyIf: strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100)}}, "denyIf: 1:1: "},
		"maybe a condition":       {[]Rule{{Name: "a", DenyIf: `dyn(true)`}}, "not bool"},
		"no condition":            {[]Rule{{Name: "a", Match: `true`}}, "has none of"},
		"two conditions":          {[]Rule{{Name: "a", AllowIf: `true`, DenyIf: `true`}}, "more than one of"},
		"two, one of them no CEL": {[]Rule{{Name: "a", DenyIf: `1 +`, WaitIf: `true`}}, "more than one of"},
		"no name":                 {[]Rule{{DenyIf: `true`}}, "rules[0].name"},
		"one name twice":          {[]Rule{{Name: "a", DenyIf: `true`}, {Name: "a", DenyIf: `true`}}, "there twice"},
		"too long":                {[]Rule{{Name: "a", DenyIf: strings.Repeat("true || ", 1000) + "true"}}, "more than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compileRules(test.rules)
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("have %v, want %q", err, test.want)
			}
		})
	}
}

func sampleInput() ruleInput {
	return ruleInput{
		request: &requestView{CommonName: "system:node:w1", DNSNames: []string{"w1.example.com"}, IPAddresses: []string{"10.0.0.5"}, Node: "w1"},
		csr:     &csrView{Spec: csrSpecView{SignerName: KubeletServing, Username: "system:node:w1", ExpirationSeconds: 3600}},
		node:    &nodeView{Metadata: metadataView{Labels: map[string]string{"zone": "a"}}},
		now:     time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		evidence: []Evidence{
			{Claim: "DNS:w1.example.com", Source: "Machine x/w1", Trust: Strong, OK: true},
		},
	}
}

func TestRulesSee(t *testing.T) {
	for expression, want := range map[string]bool{
		`request.node == "w1"`:                             true,
		`csr.spec.expirationSeconds > 60`:                  true,
		`has(csr.spec.expirationSeconds)`:                  true,
		`machine == null`:                                  true,
		`machine != null && machine.status.phase == "x"`:   false,
		`machine.status.phase == ""`:                       false,
		`has(machine.status)`:                              false,
		`has(node.metadata.deletionTimestamp)`:             false,
		`has(node.metadata.labels.zone)`:                   true,
		`"zone" in node.metadata.labels`:                   true,
		`node != null && node.metadata.labels.zone == "a"`: true,
		`evidence.exists(e, e.trust == "strong" && e.ok && e.source.startsWith("Machine "))`: true,
		`now > timestamp("2026-01-01T00:00:00Z")`:                                            true,
		`ip(request.ipAddresses[0]).family() == 4`:                                           true,
		`sets.contains(["w1.example.com", "b"], request.dnsNames)`:                           true,
	} {
		set, err := compileRules([]Rule{{Name: "a", WaitIf: expression}})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		outcomes := set.evaluate(sampleInput())
		if len(outcomes) > 0 && outcomes[0].err != nil {
			t.Errorf("%s: %v", expression, outcomes[0].err)
		} else if (len(outcomes) == 1) != want {
			t.Errorf("%s is %v", expression, !want)
		}
	}
}

func TestARuleThatFailsIsNoPermission(t *testing.T) {
	// The label is not there; the second text is no address.
	for _, expression := range []string{`node.metadata.labels["none"] == "x"`, `ip("x" + request.node).family() == 4`} {
		for _, rule := range []Rule{{Name: "a", WaitIf: expression}, {Name: "a", DenyIf: expression}, {Name: "a", Match: expression, DenyIf: "true"}} {
			set, err := compileRules([]Rule{rule})
			if err != nil {
				t.Fatal(err)
			}
			if o := set.evaluate(sampleInput()); len(o) != 1 || o[0].err == nil {
				t.Errorf("%+v: %v", rule, o)
			}
		}
		set, err := compileRules([]Rule{{Name: "a", AllowIf: expression}})
		if err != nil {
			t.Fatal(err)
		}
		if o := set.evaluate(sampleInput()); len(o) != 0 {
			t.Errorf("allowIf %s: %v", expression, o)
		}
	}
}

func TestARuleCostsNoMoreThanItsLimit(t *testing.T) {
	set, err := compileRules([]Rule{{Name: "a", WaitIf: `request.dnsNames.all(a, request.dnsNames.all(b, request.dnsNames.all(c, a + b + c != "")))`}})
	if err != nil {
		t.Fatal(err)
	}
	in := sampleInput()
	for range 64 {
		in.request.DNSNames = append(in.request.DNSNames, "w1.example.com")
	}
	if o := set.evaluate(in); len(o) != 1 || o[0].err == nil || !strings.Contains(o[0].err.Error(), "cost limit") {
		t.Fatalf("%v", o)
	}
}

func TestOnlyWhatIsQuotedCounts(t *testing.T) {
	set, err := compileRules([]Rule{{Name: "a", AllowIf: `request.dnsNames.all(n, n in ["b.example.com"] || n.endsWith("." + "example.org"))`}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"b.example.com": true, "x.example.org": false, ".example.org": false, ".": true} {
		if set[0].literals[name] != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func BenchmarkRules(b *testing.B) {
	set, err := compileRules([]Rule{{Name: "a", WaitIf: `request.ipAddresses.exists(a, !cidr("10.0.0.0/8").containsIP(a))`}, {Name: "b", DenyIf: `request.dnsNames.exists(n, n.endsWith(".example.org"))`}})
	if err != nil {
		b.Fatal(err)
	}
	in := sampleInput()
	for b.Loop() {
		set.evaluate(in)
	}
}

// Rules as an administrator may write them by mistake: each has to end by its cost, not by the memory that it takes.
func TestARuleEndsByItsCost(t *testing.T) {
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	for name, expression := range map[string]string{
		"text that grows":     `"a"` + strings.Repeat(`.replace("a", "aaaaaaaaaa")`, 30) + ` == ""`,
		"one big replacement": `"` + strings.Repeat("a", 500) + `".replace("a", "` + strings.Repeat("a", 500) + `").replace("a", "` + strings.Repeat("a", 2500) + `") == ""`,
		"loops within loops":  ten + `.all(a, ` + ten + `.all(b, ` + ten + `.all(c, ` + ten + `.all(d, ` + ten + `.all(e, a+b+c+d+e >= 0)))))`,
		"patterns":            ten + `.all(a, ` + ten + `.all(b, ` + ten + `.all(c, ` + ten + `.all(d, request.node.matches(string(d) + "(.*)*(.*)*$") || true))))`,
	} {
		set, err := compileRules([]Rule{{Name: "a", WaitIf: expression}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if o := set.evaluate(sampleInput()); len(o) != 1 || o[0].err == nil || !strings.Contains(o[0].err.Error(), "cost limit") {
			t.Errorf("%s: %v", name, o)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add(`request.dnsNames == []`)
	f.Add(`node != null && node.metadata.labels.all(k, k != "a")`)
	f.Add(`machine.status.addresses.exists(a, a.address in request.ipAddresses) || csr.spec.groups.size() > 3`)
	f.Add(`"%s %d".format([request.node, csr.spec.expirationSeconds]).split(" ").exists(s, s.matches("^w[0-9]+$"))`)
	f.Fuzz(func(t *testing.T, expression string) {
		set, err := compileRules([]Rule{{Name: "a", AllowIf: expression}, {Name: "b", Match: expression, DenyIf: expression}})
		if err == nil {
			set.evaluate(sampleInput())
			set.evaluate(ruleInput{request: &requestView{}, csr: &csrView{}})
		}
	})
}
