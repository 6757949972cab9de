// Package strictyaml reads YAML and JSON that people write, into structs with json tags: field names count letter by
// letter, none may be unknown or there twice, and there is one document. JSON's own decoder would take fields in any
// case, the second of two spellings over the first, and has no paths in its errors. Start with Parse, which shows the
// plain values, and give them to Decode.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// Parse reads the one document in data as plain values: map[string]any, []any, string, json.Number, bool; nil where it
// holds nothing. Errors call the whole by what it is, such as "the configuration".
func Parse(what string, data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s is not in UTF-8", what)
	}
	if !isOneDocument(string(data)) {
		return nil, fmt.Errorf("%s holds more than one document", what)
	}
	plain, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	var value any
	numbers := json.NewDecoder(bytes.NewReader(plain))
	numbers.UseNumber()
	err = numbers.Decode(&value)
	return value, err
}

// Decode fills what into points to with a value that Parse has returned. Fields that are not there, or null, are left as
// they are. Errors name the field by its path.
func Decode(value, into any) error {
	if err := check("", value, reflect.TypeOf(into).Elem()); err != nil {
		return err
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, into)
}

// isOneDocument says whether there is no second YAML document, of which a decoder would see nothing. Lines end where YAML
// says that they do.
func isOneDocument(text string) bool {
	started, ended := false, false
	text = strings.TrimPrefix(text, "\ufeff")
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune("\r\n\u0085\u2028\u2029", r) }) {
		begins, ends := isMarker(line, "---"), isMarker(line, "...")
		if begins {
			line = line[len("---"):]
		}
		line = strings.TrimLeft(line, " \t")
		blank := line == "" || line[0] == '#' || line[0] == '%' && !started // comment, directive
		switch {
		case ends:
			ended = started
		case begins && started, ended && !blank:
			return false
		case !blank:
			started = true
		}
	}
	return true
}

func isMarker(line, marker string) bool {
	rest, ok := strings.CutPrefix(line, marker)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t')
}

// check compares a document with the type that it is meant for, field by field. It removes fields that are null:
// not every type takes that for the default.
func check(path string, value any, t reflect.Type) error {
	switch {
	case value == nil:
		return fmt.Errorf("%s: is null", path)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return checkLeaf(path, value, t)
	case t.Kind() == reflect.Struct:
		fields, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: holds no fields", path)
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			below := strings.TrimPrefix(path+"."+name, ".")
			field, known := fieldByName(t, name)
			if !known {
				return fmt.Errorf("unknown field %q", below)
			}
			if fields[name] == nil {
				delete(fields, name)
				continue
			}
			if err := check(below, fields[name], field); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s: is not a list", path)
		}
		for i, element := range list {
			if err := check(fmt.Sprintf("%s[%d]", path, i), element, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return checkLeaf(path, value, t)
}

func checkLeaf(path string, value any, t reflect.Type) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	err = json.Unmarshal(data, reflect.New(t).Interface())
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: is a %s where a value of type %s belongs", path, wrong.Value, wrong.Type.Kind())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func fieldByName(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); tag == name {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}
