package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A write that another one overtook is made anew from what is there then.
func TestChangeOfAKubeletConfigThatWasOvertaken(t *testing.T) {
	_, files := machine(t)
	for name, c := range map[string]struct {
		conflicts int
		wrong     string // what the change says
		reason    Reason
		writes    int
	}{
		"at once":                 {0, "", "", 1},
		"only tried":              {0, "dry", "", 1},
		"overtaken twice":         {2, "", "", 3},
		"overtaken all the time":  {1000, "", Conflict, maxConflicts},
		"a change that fails":     {0, "cannot", "", 0},
		"a change that is no one": {0, "same", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			version, writes := 1, 0
			var patch struct {
				Metadata struct{ ResourceVersion, UID string }
				Data     map[string]string
			}
			url := serve(t, files, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch {
					body, _ := io.ReadAll(r.Body)
					if err := json.Unmarshal(body, &patch); err != nil {
						t.Error(err)
					}
					if got := r.URL.Query().Get("dryRun"); (got == "All") != (c.wrong == "dry") {
						t.Errorf("dryRun=%q", got)
					}
					if writes++; writes <= c.conflicts {
						version++
						answer(http.StatusConflict)(w, r)
						return
					}
				}
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kubelet-config","uid":"u","resourceVersion":"%d"},"data":{"kubelet":"v%[1]d","other":"x"}}`, version)
			})
			failure := errors.New(c.wrong)
			err := dial(t, files, Options{Server: url}).ChangeKubeletConfig(t.Context(), "kubelet-config", c.wrong == "dry", func(data []byte) ([]byte, error) {
				switch c.wrong {
				case "cannot":
					return nil, failure
				case "same":
					return data, nil
				}
				return append(data, "+"...), nil
			})
			if ReasonOf(err) != c.reason || writes != c.writes || (c.wrong == "cannot") != errors.Is(err, failure) {
				t.Errorf("%v after %d writes, want %q after %d", err, writes, c.reason, c.writes)
			}
			if writes == 0 {
				return
			}
			if want := fmt.Sprintf("v%s+", patch.Metadata.ResourceVersion); patch.Data["kubelet"] != want || len(patch.Data) != 1 || patch.Metadata.UID != "u" {
				t.Errorf("patch %+v, want %q", patch, want)
			}
		})
	}
}

func TestKubeletConfigsOfACluster(t *testing.T) {
	_, files := machine(t)
	items := func(names ...string) string {
		var list []string
		for _, name := range names {
			list = append(list, fmt.Sprintf(`{"metadata":{"name":%q},"data":{"kubelet":"of %s"}}`, name, name))
		}
		return `{"apiVersion":"v1","kind":"ConfigMapList","items":[` + strings.Join(append(list, `{"metadata":{"name":"kubelet-config-1.9"},"data":{}}`), ",") + `]}`
	}
	for body, want := range map[string]string{
		items("kubelet-config-1.22", "kubelet-config", "kubelet-config-mine", "my-kubelet-config", "kubelet-config-1.22.1"): "kubelet-config=of kubelet-config kubelet-config-1.22=of kubelet-config-1.22",
		items("kubeadm-config"): "NotFound",
	} {
		url := serve(t, files, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, body)
		})
		configs, err := dial(t, files, Options{Server: url}).KubeletConfigs(t.Context())
		got := string(ReasonOf(err))
		for _, c := range configs {
			got += c.Name + "=" + string(c.Data) + " "
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("got %q (%v), want %q", got, err, want)
		}
	}
}
