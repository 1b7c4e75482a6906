package config

import (
	"fmt"
	"reflect"
	"strings"
)

// notInEffect lists the keys that this version reads and checks but does not act upon yet. Giving one of them a value
// other than its default is a warning. The work that makes a key effective deletes its line.
var notInEffect = []string{}

func (d *decoder) warnNotInEffect(c *Config) {
	var def Config
	def.setDefaults()
	for _, key := range notInEffect {
		list, rest, isList := strings.Cut(key, "[].")
		if !isList {
			d.compareDefault(key, reflect.ValueOf(c).Elem(), reflect.ValueOf(&def).Elem(), key)
			continue
		}
		field, _ := fieldByKey(reflect.ValueOf(c).Elem(), list)
		for i := range field.Len() {
			item := field.Index(i)
			blank := reflect.New(item.Type())
			setDefaults(blank)
			if h, ok := reflect.TypeAssert[*HMC](blank); ok {
				h.Group = c.HMCs[i].Name
			}
			d.compareDefault(fmt.Sprintf("%s[%d].%s", list, i, rest), item, blank.Elem(), rest)
		}
	}
}

// compareDefault warns where the value of key in v, or of any key below it, is not the one it has in def.
func (d *decoder) compareDefault(path string, v, def reflect.Value, key string) {
	got, _ := fieldByKey(v, key)
	want, _ := fieldByKey(def, key)
	if got.Kind() == reflect.Struct {
		for _, k := range keysOf(got.Type()) {
			d.compareDefault(join(path, k), got, want, k)
		}
		return
	}
	if !reflect.DeepEqual(got.Interface(), want.Interface()) {
		d.warnf(path, "has no effect in this version yet")
	}
}
