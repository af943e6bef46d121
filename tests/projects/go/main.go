package main

import (
	"fmt"
	"runtime"
)

func main() {
	fmt.Printf("Hello from Go %s on %s\n", version, runtime.GOARCH)
}
