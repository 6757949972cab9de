package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const canary = "CANARYcanaryCANARY"

// spellings are the forms in which a leak of the canary could show itself.
var spellings = []string{
	canary,
	base64.StdEncoding.EncodeToString([]byte(canary)),
	fmt.Sprintf("%x", canary),
	fmt.Sprintf("%X", canary),
	strings.Trim(fmt.Sprint([]byte(canary)), "[]"),
	canary[:8],
}

func assertNoCanary(t *testing.T, text string) {
	t.Helper()
	for _, s := range spellings {
		if strings.Contains(text, s) {
			t.Errorf("shows the secret as %q: %s", s, text)
		}
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	t.Parallel()
	spec := Spec{ClusterName: "c", User: "u", ClientKey: []byte(canary), Token: canary}
	file := mustParse(t, string(New(spec)))
	_, user, err := file.Current()
	if err != nil || string(user.ClientKeyData) != canary {
		t.Fatalf("the canary is not in the user: %v", err)
	}
	for name, value := range map[string]any{
		"secret": user.ClientKeyData, "user": user, "users": file.Users(), "pointer to user": &user,
		"spec": spec, "pointer to spec": &spec, "file": file, "file in a struct": struct{ F *File }{file},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Not %p of a struct: fmt asks no methods then, and go vet reports it.
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%c", "%U", "%b", "%o", "%t",
				"%z", "%[2]v", "%*v", "no verb"} {
				assertNoCanary(t, fmt.Sprintf(verb, value))
			}
			encoded, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			assertNoCanary(t, string(encoded))
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("m", "value", value)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "value", value)
			assertNoCanary(t, log.String())
		})
	}
}

func TestSecretSaysThatItIsRedacted(t *testing.T) {
	t.Parallel()
	encoded, err := json.Marshal(Secret(canary))
	if err != nil || string(encoded) != `"[redacted]"` {
		t.Errorf("JSON: %s, %v", encoded, err)
	}
	if got := fmt.Sprintf("%v %s %x %#v", Secret(canary), Secret(canary), Secret(canary), Secret(nil)); got !=
		"[redacted] [redacted] [redacted] [redacted]" {
		t.Errorf("fmt: %s", got)
	}
}

func TestErrorsNeverQuoteSecrets(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"a key that is not base64":              user("    client-key-data: " + canary + "%\n"),
		"a key in a tag":                        user("    client-key-data: !" + canary + " x\n"),
		"a key in an unknown tag handle":        user("    client-key-data: !a!" + canary + " x\n"),
		"a key in an alias":                     user("    client-key-data: *" + canary + "\n"),
		"a key in an anchor":                    user("    client-key-data: &" + canary + "\n"),
		"a key that is a list":                  user("    client-key-data: [" + canary + "]\n"),
		"a key that is broken binary":           user("    client-key-data: !!binary " + canary + "%\n"),
		"a key that is a broken number":         user("    client-key-data: !!int " + canary + "\n"),
		"a key as file name":                    user("    client-key: " + canary + "\n"),
		"a key as certificate file":             user("    client-certificate: " + canary + "\n"),
		"a key as the whole user":               "users:\n- name: u\n  user: " + canary + "\n",
		"a key as the whole entry":              "users:\n- " + canary + "\n",
		"a key as the whole list":               "users: " + canary + "\n",
		"a key as kind":                         "kind: " + canary + "\n",
		"a key as version":                      "apiVersion: " + canary + "\n",
		"a key as boolean":                      "clusters: [{name: u, cluster: {insecure-skip-tls-verify: " + canary + "}}]",
		"a key as key, twice":                   canary + ": a\n" + canary + ": a\n",
		"a token in quotes without end":         user("    token: \"" + canary + "\n"),
		"a token with an unknown escape":        user("    token: \"" + canary + "\\q\"\n"),
		"a token with a colon":                  user("    token: " + canary + ": " + canary + ": x\n"),
		"a key over lines with too little room": user("    client-key-data: " + canary + "\n" + canary + "\n"),
		"a key behind a tab":                    user("\tclient-key-data: " + canary + "\n"),
		"a key with a control character":        user("    client-key-data: " + canary + "\x01\n"),
		"a key in a directive":                  "%" + canary + " " + canary + "\n---\na: b\n",
		"a key in a tag directive":              "%TAG !a! " + canary + "\n%TAG !a! " + canary + "\n---\na: b\n",
		"a key in a second document":            user("    token: t\n") + "---\n" + canary + "\n",
		"a key that is the document":            canary,
		"a PEM block":                           "-----BEGIN " + canary + "-----\n" + canary + "\n-----END\n",
		"a key with a comment beside":           user("    ? client-key-data # " + canary + "\n    : " + canary + "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := Parse([]byte(data))
			if err != nil {
				assertNoCanary(t, err.Error())
				return
			}
			_, _, err = file.Current()
			assertNoCanary(t, fmt.Sprint(err))
			for _, u := range file.Users() {
				assertNoCanary(t, fmt.Sprint(u.Err))
				assertNoCanary(t, fmt.Sprint(file.SetClientCertificate(u.Name, []byte("new"), []byte("KEY"))))
			}
			for _, c := range file.Clusters() {
				assertNoCanary(t, fmt.Sprint(c.Err))
			}
		})
	}
}

func TestSetServerNeverQuotesTheURL(t *testing.T) {
	t.Parallel()
	file := mustParse(t, kubeadmFile)
	err := file.SetServer("kubernetes", "https://user:"+canary+"@ host")
	if err == nil {
		t.Fatal("a URL with a space was accepted")
	}
	assertNoCanary(t, err.Error())
}
