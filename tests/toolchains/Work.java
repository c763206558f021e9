import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.concurrent.*;
import java.util.stream.*;

/** Compiled hot loops, a parallel collector, threads, a child, mapped and watched files, a server on the loopback. */
public class Work {
    static long hot(long n) {
        long x = 1;
        for (long i = 0; i < n; i++) x = x * 31 + i;
        return x;
    }

    public static void main(String[] words) throws Exception {
        for (int i = 0; i < 200; i++) if (hot(20_000) == 42) throw new AssertionError();
        ExecutorService pool = Executors.newFixedThreadPool(8);
        long sum = pool.invokeAll(IntStream.range(0, 32).mapToObj(i -> (Callable<Integer>) () -> new byte[1 << 18].length)
            .collect(Collectors.toList())).stream().mapToLong(f -> { try { return f.get(); } catch (Exception e) { throw new Error(e); } }).sum();
        pool.shutdown();
        System.gc();
        WatchService watch = FileSystems.getDefault().newWatchService();
        Path folder = Files.createTempDirectory("work");
        folder.register(watch, StandardWatchEventKinds.ENTRY_CREATE);
        try (FileChannel file = FileChannel.open(folder.resolve("file"), StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            file.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 16).put(0, (byte) 7);
            if (file.tryLock() == null) throw new AssertionError();
        }
        if (watch.poll(5, TimeUnit.SECONDS) == null) throw new AssertionError("no event");
        try (ServerSocketChannel server = ServerSocketChannel.open().bind(new InetSocketAddress("127.0.0.1", 0));
             SocketChannel client = SocketChannel.open(server.getLocalAddress());
             SocketChannel other = server.accept()) {
            other.write(ByteBuffer.wrap("pong".getBytes()));
            ByteBuffer answer = ByteBuffer.allocate(4);
            while (answer.hasRemaining()) client.read(answer);
        }
        if (!NetworkInterface.getNetworkInterfaces().hasMoreElements()) throw new AssertionError("no loopback");
        Process child = new ProcessBuilder("sh", "-c", "echo child").start();
        if (!new String(child.getInputStream().readAllBytes()).equals("child\n") || child.waitFor() != 0) throw new AssertionError();
        if (sum != 32L << 18) throw new AssertionError();
        System.out.println("done");
    }
}
