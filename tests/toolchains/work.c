/* What compiled programs ask of a kernel: threads, processes, every kind of descriptor, shared memory, sockets on the loopback. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <mqueue.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *add(void *unused) {
    cpu_set_t cpus;
    assert(pthread_getaffinity_np(pthread_self(), sizeof cpus, &cpus) == 0);
    assert(pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus) == 0);
    for (int i = 0; i < 10000; i++) {
        pthread_mutex_lock(&lock);
        total++;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void threads(void) {
    pthread_t all[16];
    for (int i = 0; i < 16; i++) assert(pthread_create(&all[i], NULL, add, NULL) == 0);
    for (int i = 0; i < 16; i++) assert(pthread_join(all[i], NULL) == 0);
    assert(total == 160000);
}

static void descriptors(void) {
    struct epoll_event event = {.events = EPOLLIN};
    int poll = epoll_create1(EPOLL_CLOEXEC), counter = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    assert(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    int signals = signalfd(-1, &set, 0), watch = inotify_init1(0);
    assert(inotify_add_watch(watch, "/tmp", IN_CREATE) > 0);
    int all[] = {counter, timer, signals, watch};
    for (int i = 0; i < 4; i++) assert(all[i] >= 0 && epoll_ctl(poll, EPOLL_CTL_ADD, all[i], &event) == 0);
    assert(write(counter, &(unsigned long){1}, 8) == 8);
    assert(timerfd_settime(timer, 0, &(struct itimerspec){.it_value = {0, 1000}}, NULL) == 0);
    assert(kill(getpid(), SIGUSR1) == 0);
    unlink("/tmp/watched");
    assert(close(open("/tmp/watched", O_CREAT | O_WRONLY, 0600)) == 0);
    struct epoll_event ready[4];
    int seen = 0;
    while (seen < 4) seen = epoll_wait(poll, ready, 4, 5000);
}

static void memory(void) {
    int file = memfd_create("memory", MFD_CLOEXEC);
    assert(file >= 0 && ftruncate(file, 1 << 20) == 0);
    char *map = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int named = shm_open("/named", O_CREAT | O_RDWR, 0600), segment = shmget(IPC_PRIVATE, 4096, 0600);
    assert(map != MAP_FAILED && named >= 0 && ftruncate(named, 4096) == 0 && shm_unlink("/named") == 0);
    char *attached = shmat(segment, NULL, 0);
    sem_t *once = sem_open("/once", O_CREAT, 0600, 0);
    mqd_t queue = mq_open("/queue", O_CREAT | O_RDWR, 0600, &(struct mq_attr){.mq_maxmsg = 4, .mq_msgsize = 16});
    assert(attached != (void *)-1 && once != SEM_FAILED && queue != (mqd_t)-1);
    pid_t child = fork();
    if (!child) {
        strcpy(map, "shared");
        strcpy(attached, "too");
        assert(nice(1) != -1 && mq_send(queue, "hello", 6, 0) == 0 && sem_post(once) == 0);
        _exit(7);
    }
    int status;
    char text[16];
    assert(sem_wait(once) == 0 && mq_receive(queue, text, 16, NULL) == 6 && waitpid(child, &status, 0) == child);
    assert(WEXITSTATUS(status) == 7 && !strcmp(map, "shared") && !strcmp(attached, "too") && !strcmp(text, "hello"));
    assert(mprotect(map, 4096, PROT_READ) == 0 && mlock(map, 4096) == 0 && munlock(map, 4096) == 0);
    assert(madvise(map, 4096, MADV_DONTNEED) == 0);
    shmctl(segment, IPC_RMID, NULL), sem_unlink("/once"), mq_unlink("/queue");
}

static void *serve(void *listener) {
    int one = accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC);
    assert(one >= 0 && send(one, "pong", 4, 0) == 4);
    close(one);
    return NULL;
}

static void sockets(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP), yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    assert(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
    assert(bind(listener, (void *)&here, size) == 0 && listen(listener, 4) == 0 && getsockname(listener, (void *)&here, &size) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, serve, &listener);
    int client = socket(AF_INET, SOCK_STREAM, 0), datagram = socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDP), pair[2];
    char text[8] = "";
    assert(connect(client, (void *)&here, size) == 0 && recv(client, text, 8, 0) == 4 && !strcmp(text, "pong"));
    pthread_join(thread, NULL);
    assert(datagram >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && write(pair[0], "x", 1) == 1);
    struct ifaddrs *interfaces;
    struct addrinfo *found, hints = {.ai_flags = AI_ADDRCONFIG};
    assert(getifaddrs(&interfaces) == 0 && !strcmp(interfaces->ifa_name, "lo"));
    assert(getaddrinfo("localhost", "80", &hints, &found) == 0);
}

int main(void) {
    struct rlimit limit;
    threads(), descriptors(), memory(), sockets();
    assert(getrlimit(RLIMIT_NOFILE, &limit) == 0 && setrlimit(RLIMIT_NOFILE, &limit) == 0);
    pid_t child;
    assert(posix_spawnp(&child, "true", NULL, NULL, (char *[]){"true", NULL}, (char *[]){"PATH=/usr/bin:/bin", NULL}) == 0);
    int status;
    assert(waitpid(child, &status, 0) == child && status == 0);
    FILE *shell = popen("echo shell", "r");
    char line[16];
    assert(fgets(line, 16, shell) && pclose(shell) == 0);
    puts("done");
}
