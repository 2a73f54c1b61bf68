package chunk_test

import "testing"

func TestNothing(*testing.T) {}
