// Goroutines on many threads, garbage, a child process, a server on the loopback, and the list of interfaces.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	runtime.GOMAXPROCS(8)
	var group sync.WaitGroup
	sums := make(chan int, 64)
	for i := 0; i < 64; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			runtime.LockOSThread()
			kept := [][]byte{}
			for n := 0; n < 200; n++ {
				kept = append(kept, make([]byte, 1<<12))
			}
			sums <- len(kept)
		}()
	}
	group.Wait()
	runtime.GC()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "pong") }))
	answer, err := http.Get("http://" + listener.Addr().String())
	must(err)
	body, err := io.ReadAll(answer.Body)
	must(err)
	out, err := exec.Command("sh", "-c", "echo child").Output()
	must(err)
	interfaces, err := net.Interfaces()
	must(err)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	must(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	<-caught
	if string(body) != "pong" || string(out) != "child\n" || len(interfaces) != 1 || len(sums) != 64 {
		panic("wrong")
	}
	fmt.Println("done")
}
