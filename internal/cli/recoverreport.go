package cli

import (
	"fmt"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/kubepki/kubepki/internal/recovery"
)

// printPlan writes the diagnosis and what will be done about it.
func (r *recoverRun) printPlan(plan *recovery.Plan) {
	out := r.app.Stdout
	d := plan.Diagnosis
	printFindings(r.app, d)
	if len(plan.Refusals) > 0 {
		return
	}
	if plan.Nothing() && r.kubeletOnly {
		fmt.Fprintln(out, "Nothing to repair: the kubelet's files are as they should be.")
		return
	}
	if plan.Nothing() {
		fmt.Fprintln(out, "Nothing to repair: every file of this node is as it should be.")
		return
	}
	title := "What is done, in this order:"
	if r.dryRun {
		title = "What would be done, in this order:"
	}
	fmt.Fprintln(out, title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, s := range plan.Steps {
		fmt.Fprintf(w, "  %d.\t%s\t%s\n", i+1, stepText(s), stepDates(s))
	}
	_ = w.Flush()
	for _, s := range plan.Steps {
		for _, note := range s.Notes {
			r.app.notef("%s: %s", s.Name, note)
		}
	}
}

// stepText says in words what a step does.
func stepText(s recovery.Step) string {
	text := map[recovery.Action]string{
		recovery.Renew:             "renew " + s.Name,
		recovery.Make:              "make " + s.Name + " anew",
		recovery.MakePublicKey:     "make " + s.File + " from sa.key",
		recovery.Request:           "request " + s.Name + " from its CA",
		recovery.RepairKubeconfig:  "repair " + s.File,
		recovery.InstallCA:         "install " + s.File,
		recovery.MintClient:        "make a client certificate for the kubelet: " + s.File,
		recovery.InstallClient:     "put the kubelet's client certificate into " + s.File,
		recovery.SwitchLink:        "let " + s.File + " lead to " + path.Base(s.Target),
		recovery.RepairKubeletConf: "repair " + s.File,
		recovery.RenewServing:      "renew the kubelet's serving certificate",
		recovery.MoveAway:          "remove " + s.File + " (a backup stays; the kubelet gets another)",
		recovery.StartKubelet:      "start the kubelet",
		recovery.RestartKubelet:    "restart the kubelet",
		recovery.WaitFor:           "wait for " + s.Name,
		recovery.SyncKubeconfigs:   "refresh copies of admin.conf",
		recovery.HelpWorkers:       "say what the other nodes need",
	}[s.Action]
	if text == "" {
		text = string(s.Action) + " " + s.Name
	}
	if s.Reason != "" {
		text += " (" + string(s.Reason) + ")"
	}
	return text
}

func stepDates(s recovery.Step) string {
	var parts []string
	if !s.ExpiredSince.IsZero() {
		parts = append(parts, "ended "+day(s.ExpiredSince))
	}
	if !s.NotAfter.IsZero() {
		parts = append(parts, "new until "+day(s.NotAfter))
	}
	return strings.Join(parts, ", ")
}

// printFindings writes what is wrong, grouped by the error message that it causes.
func printFindings(a *app, d recovery.Diagnosis) {
	out := a.Stdout
	if d.Clock.Suspect != "" {
		fmt.Fprintf(out, "%s %s: %s\n", a.paint(out, red, "CLOCK"), d.Clock.Suspect, d.Clock.Detail)
		for _, e := range d.Clock.Evidence {
			fmt.Fprintf(out, "  %s  %s %s\n", day(e.Time), e.Kind, e.File)
		}
		fmt.Fprintln(out)
	}
	var order []recovery.Symptom
	bySymptom := map[recovery.Symptom][]recovery.Finding{}
	for _, f := range d.Findings {
		if _, seen := bySymptom[f.Symptom]; !seen {
			order = append(order, f.Symptom)
		}
		bySymptom[f.Symptom] = append(bySymptom[f.Symptom], f)
	}
	for _, symptom := range order {
		if symptom == "" {
			fmt.Fprintln(out, "Worth knowing:")
		} else {
			fmt.Fprintf(out, "%s\n", symptom)
		}
		for _, f := range bySymptom[symptom] {
			fmt.Fprintf(out, "  %s  %s\n", a.paint(out, severityColour(f.Severity), string(f.Reason)), f.Message)
		}
		fmt.Fprintln(out)
	}
}

func severityColour(s recovery.Severity) colour {
	switch s {
	case recovery.Critical:
		return red
	case recovery.Warning:
		return yellow
	}
	return green
}
