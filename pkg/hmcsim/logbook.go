package hmcsim

// logBook is one of the console's logs.
type logBook struct{}

func (h *HMC) apiLogonEntry(*session, string) int  { return 0 }
func (h *HMC) apiLogoffEntry(*session, string) int { return 0 }
func (h *HMC) logLocked(string, ...int)            {}
func (h *HMC) republishInventoryLocked()           {}
