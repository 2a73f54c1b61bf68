package chunk

import "context"

func contexts() (a, b context.Context) {
	a = context.Background()
	fresh := context.TODO
	b = fresh()
	return a, b
}
