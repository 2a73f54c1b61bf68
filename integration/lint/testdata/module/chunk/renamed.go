package chunk

import stdctx "context"

var renamed = stdctx.Background()
