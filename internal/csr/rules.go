package csr

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Bounds of rules. A rule that needs more than the cost limit has failed. Nothing else stops one: with a
// limit of time the same inputs could have two verdicts.
const (
	maxRules      = 100
	maxExpression = 4 << 10 // bytes
	costLimit     = 100_000
)

// ruleSet is the user's rules, compiled.
type ruleSet []compiledRule

type compiledRule struct {
	name, message string
	match         cel.Program // nil: always
	condition     cel.Program
	kind          ruleKind
	literals      map[string]bool // quoted in an allowIf
}

type ruleKind string

const (
	allowIf ruleKind = "allowIf"
	denyIf  ruleKind = "denyIf"
	waitIf  ruleKind = "waitIf"
)

// environment is made when the first rule is compiled: most commands have none.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		ext.NativeTypes(
			ext.ParseStructTag("json"), reflect.TypeFor[requestView](), reflect.TypeFor[csrView](), reflect.TypeFor[nodeView](),
			reflect.TypeFor[machineView](), reflect.TypeFor[evidenceView](),
		),
		ext.Strings(), ext.Sets(), ext.Network(),
		cel.Variable("request", cel.ObjectType("csr.requestView")),
		cel.Variable("csr", cel.ObjectType("csr.csrView")),
		cel.Variable("node", cel.ObjectType("csr.nodeView")),
		cel.Variable("machine", cel.ObjectType("csr.machineView")),
		cel.Variable("evidence", cel.ListType(cel.ObjectType("csr.evidenceView"))),
		cel.Variable("now", cel.TimestampType),
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(50),
	)
})

// compileRules type-checks rules. The error names the rule, the field and the place.
func compileRules(rules []Rule) (ruleSet, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	if len(rules) > maxRules {
		return nil, fmt.Errorf("rules: %d are more than %d", len(rules), maxRules)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	var set ruleSet
	for i, r := range rules {
		if len(validation.IsDNS1123Label(r.Name)) > 0 {
			return nil, fmt.Errorf("rules[%d].name: %q is not a name of small letters, digits and hyphens", i, r.Name)
		}
		if slices.ContainsFunc(set, func(c compiledRule) bool { return c.name == r.Name }) {
			return nil, fmt.Errorf("rules[%d].name: %s is there twice", i, r.Name)
		}
		c, err := compileRule(env, r)
		if err != nil {
			return nil, fmt.Errorf("rules[%d] (%s): %w", i, r.Name, err)
		}
		set = append(set, c)
	}
	return set, nil
}

func compileRule(env *cel.Env, r Rule) (compiledRule, error) {
	c := compiledRule{name: r.Name, message: r.Message}
	if c.message == "" {
		c.message = "the rule says so"
	}
	if r.Match != "" {
		program, _, err := compile(env, r.Match)
		if err != nil {
			return c, fmt.Errorf("match: %w", err)
		}
		c.match = program
	}
	var text string
	for kind, condition := range map[ruleKind]string{allowIf: r.AllowIf, denyIf: r.DenyIf, waitIf: r.WaitIf} {
		if condition == "" {
			continue
		}
		if text != "" {
			return c, errors.New("has more than one of allowIf, denyIf, waitIf")
		}
		c.kind, text = kind, condition
	}
	if text == "" {
		return c, errors.New("has none of allowIf, denyIf, waitIf")
	}
	program, checked, err := compile(env, text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", c.kind, err)
	}
	c.condition = program
	if c.kind == allowIf {
		c.literals = literals(checked)
	}
	return c, nil
}

func compile(env *cel.Env, text string) (cel.Program, *cel.Ast, error) {
	if len(text) > maxExpression {
		return nil, nil, fmt.Errorf("has more than %d bytes", maxExpression)
	}
	checked, issues := env.Compile(text)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		// What is wrong with the whole has no place.
		return nil, nil, fmt.Errorf("%d:%d: %s", max(first.Location.Line(), 1), max(first.Location.Column()+1, 1), first.Message)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, nil, fmt.Errorf("is of type %s, not bool", checked.OutputType())
	}
	program, err := env.Program(checked, cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize))
	return program, checked, err
}

// literals returns the strings that an expression quotes.
func literals(checked *cel.Ast) map[string]bool {
	found := map[string]bool{}
	ast.PreOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.LiteralKind {
			if s, ok := e.AsLiteral().(types.String); ok {
				found[string(s)] = true
			}
		}
	}))
	return found
}

// ruleInput is what rules look at. Where there is no Node or Machine, it and its fields are null in a rule, at any
// depth: machine == null holds, machine.status.phase == "Running" does not, nor does machine.status.phase == "", and
// has(machine.status) is false. A label asked for by name fails, as it does where an object lacks it.
type ruleInput struct {
	request  *requestView
	csr      *csrView
	node     *nodeView
	machine  *machineView
	evidence []Evidence
	now      time.Time
}

func (in ruleInput) variables() (cel.Activation, error) {
	evidence := make([]*evidenceView, 0, len(in.evidence))
	for _, e := range in.evidence {
		evidence = append(evidence, &evidenceView{e.Claim, e.Source, string(e.Trust), e.OK, e.Message})
	}
	v := map[string]any{
		"request": in.request, "csr": in.csr, "evidence": evidence, "now": in.now, "node": types.NullValue, "machine": types.NullValue,
	}
	if in.node != nil {
		v["node"] = in.node
	}
	if in.machine != nil {
		v["machine"] = in.machine
	}
	return cel.NewActivation(v)
}

// ruleOutcome is a rule whose condition was true, or that failed.
type ruleOutcome struct {
	*compiledRule
	err error
}

// evaluate returns the outcomes of the rules, in their order. A failing allowIf has none: it allows nothing.
func (set ruleSet) evaluate(in ruleInput) []ruleOutcome {
	if len(set) == 0 {
		return nil
	}
	var outcomes []ruleOutcome
	variables, failed := in.variables()
	for i := range set {
		c := &set[i]
		holds, err := true, failed
		if c.match != nil && err == nil {
			holds, err = ask(c.match, variables)
		}
		if holds && err == nil {
			holds, err = ask(c.condition, variables)
		}
		if err != nil && c.kind == allowIf {
			continue
		}
		if holds || err != nil {
			outcomes = append(outcomes, ruleOutcome{c, err})
		}
	}
	return outcomes
}

func ask(p cel.Program, variables cel.Activation) (bool, error) {
	value, _, err := p.Eval(variables)
	if err != nil {
		return false, err
	}
	return value == types.True, nil
}
