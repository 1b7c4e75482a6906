package translate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// BenchmarkRules is what rating an OS message by 200 rules costs: the ready sets, and others for messages of a product.
func BenchmarkRules(b *testing.B) {
	rs := NewRules(manyRules(b, 200))
	for name, text := range map[string]string{
		"none": "[   12.123456] systemd[1]: Started Session 4711 of user root.", "fits": "IXC101I SYSPLEX PARTITIONING IN PROGRESS FOR SY2 REQUESTED BY XCFAS",
	} {
		e := osMessage(text)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Severity, e.Labels = event.SeverityInfo, nil
				rs.Apply(e)
			}
		})
	}
}

func manyRules(tb testing.TB, n int) []config.Rule {
	var yaml strings.Builder
	yaml.WriteString("- include: zos\n- include: linux\n- include: hmc\n")
	have := len(loadRules(tb, yaml.String()))
	for i := range n - have {
		fmt.Fprintf(&yaml, "- match: [{type: [os-message], text: '\\bPRD%03d[EW]\\b', name: 'PROD.*'}]\n  severity: warning\n", i)
	}
	return loadRules(tb, yaml.String())
}
