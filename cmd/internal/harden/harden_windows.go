package harden

// Process does nothing: dumps are a setting of the whole machine here.
func Process() error { return nil }
