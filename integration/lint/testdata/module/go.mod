module embassy

go 1.26.0
