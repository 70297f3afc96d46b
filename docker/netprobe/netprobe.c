/* Proves whether one container can reach another: supervisor/sandbox/isolation.py runs it inside hardened containers.
 *
 *   netprobe listen PORT SECONDS          answers TCP connections and UDP datagrams on PORT, on all IPv4 addresses, then ends
 *   netprobe contact ADDRESS PORT MILLISECONDS    tries to get an answer, over both, for so long at most
 *   netprobe ask ADDRESS NAME MILLISECONDS        asks a DNS server for an address of NAME, once
 *
 * `ask` ends with status 16 plus the answer's code (RFC 1035, 4.1.1: 3 for a name that does not exist), or 0 when there was none.
 * `contact` ends with status 0 when nothing answered, plus 1 for TCP, plus 2 for UDP, plus 4 when the address was found on
 * the link (ARP), which tells a network that isolates from one that is down. A status of 64 and above is a failure of its own, which
 * proves nothing. An answer is the word below: it does not count to be connected to something else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <net/if_arp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { USAGE = 64, SYSTEM = 71, TCP = 1, UDP = 2, NEIGHBOUR = 4, ANSWERED = 16, RETRY = 50 /* milliseconds between two attempts */ };

static const char answer[] = "terminal-supervisor netprobe";

static int must(int result)
{
    if (result < 0) _exit(SYSTEM);
    return result;
}

static int64_t now(void)
{
    struct timespec time;
    must(clock_gettime(CLOCK_MONOTONIC, &time));
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static long number(const char *text, long largest)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (!*text || *end || value < 1 || value > largest) _exit(USAGE);
    return value;
}

static int new_socket(int type)
{
    return must(socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

static void listen_for(uint16_t port, long seconds)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int tcp = new_socket(SOCK_STREAM), udp = new_socket(SOCK_DGRAM);
    must(bind(tcp, (struct sockaddr *)&address, sizeof address));
    must(bind(udp, (struct sockaddr *)&address, sizeof address));
    must(listen(tcp, 16));
    struct pollfd both[2] = {{tcp, POLLIN, 0}, {udp, POLLIN, 0}};
    for (int64_t end = now() + seconds * 1000, left; (left = end - now()) > 0;) {
        must(poll(both, 2, (int)left));
        int connection = accept4(tcp, NULL, NULL, SOCK_CLOEXEC);
        if (connection >= 0) {
            send(connection, answer, sizeof answer, MSG_NOSIGNAL);
            close(connection);
        }
        char byte;
        socklen_t size = sizeof address;
        if (recvfrom(udp, &byte, 1, 0, (struct sockaddr *)&address, &size) >= 0)
            sendto(udp, answer, sizeof answer, 0, (struct sockaddr *)&address, size);
    }
}

/* Whether the answer can be received from `fd` within so many milliseconds. */
static int answered(int fd, int milliseconds)
{
    struct pollfd ready = {fd, POLLIN, 0};
    char received[sizeof answer];
    return must(poll(&ready, 1, milliseconds)) && recv(fd, received, sizeof received, 0) == (ssize_t)sizeof answer &&
           memcmp(received, answer, sizeof answer) == 0;
}

/* Whether the kernel has learnt the hardware address that belongs to `address` (proc(5), /proc/net/arp). */
static int is_neighbour(const char *address)
{
    FILE *table = fopen("/proc/net/arp", "re");
    char line[256], entry[64];
    unsigned flags;
    int found = 0;
    if (!table) _exit(SYSTEM);
    while (fgets(line, sizeof line, table))
        if (sscanf(line, "%63s 0x%*x 0x%x", entry, &flags) == 2 && strcmp(entry, address) == 0) found = flags & ATF_COM;
    fclose(table);
    return found;
}

static int contact(const struct sockaddr_in *address, long milliseconds)
{
    int reached = 0, tcp = -1, udp = new_socket(SOCK_DGRAM);
    for (int64_t end = now() + milliseconds; reached != (TCP | UDP) && now() < end;) {
        if (tcp < 0) {
            tcp = new_socket(SOCK_STREAM);
            connect(tcp, (const struct sockaddr *)address, sizeof *address);
        }
        if (!(reached & UDP)) {
            sendto(udp, "?", 1, 0, (const struct sockaddr *)address, sizeof *address);
            if (answered(udp, RETRY / 2)) reached |= UDP;
        }
        if (!(reached & TCP)) {
            int error = 0;
            socklen_t size = sizeof error;
            if (answered(tcp, RETRY / 2)) reached |= TCP;
            must(getsockopt(tcp, SOL_SOCKET, SO_ERROR, &error, &size));
            struct pollfd state = {tcp, POLLOUT, 0};
            must(poll(&state, 1, 0));
            if (error || state.revents & (POLLHUP | POLLERR)) { /* refused: perhaps nobody listens yet */
                close(tcp);
                tcp = -1;
            }
        }
    }
    return reached;
}

static int ask(const struct sockaddr_in *server, const char *name, long milliseconds)
{
    unsigned char question[512] = {0x74, 0x73, 1, 0, 0, 1}, reply[512]; /* one question, recursion desired */
    size_t end = 12;
    if (strlen(name) > 253) _exit(USAGE);
    for (size_t size; *name; name += size + (name[size] == '.')) {
        size = strcspn(name, ".");
        if (size < 1 || size > 63) _exit(USAGE);
        question[end++] = (unsigned char)size;
        memcpy(question + end, name, size);
        end += size;
    }
    memcpy(question + end, "\0\0\1\0\1", 5); /* the root, type A, class IN */
    end += 5;
    int udp = new_socket(SOCK_DGRAM);
    must(connect(udp, (const struct sockaddr *)server, sizeof *server));
    if (send(udp, question, end, 0) < 0) return 0;
    for (int64_t last = now() + milliseconds, left; (left = last - now()) > 0;) {
        struct pollfd ready = {udp, POLLIN, 0};
        ssize_t size = must(poll(&ready, 1, (int)left)) ? recv(udp, reply, sizeof reply, 0) : -1;
        if (size >= 12 && memcmp(reply, question, 2) == 0) return ANSWERED + (reply[3] & 15);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "listen") == 0) {
        listen_for((uint16_t)number(argv[2], 65535), number(argv[3], 3600));
        return 0;
    }
    if (argc == 5 && strcmp(argv[1], "contact") == 0) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number(argv[3], 65535))};
        if (inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return USAGE;
        int reached = contact(&address, number(argv[4], 60000));
        return is_neighbour(argv[2]) ? reached | NEIGHBOUR : reached;
    }
    if (argc == 5 && strcmp(argv[1], "ask") == 0) {
        struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(53)};
        if (inet_pton(AF_INET, argv[2], &server.sin_addr) != 1) return USAGE;
        return ask(&server, argv[3], number(argv[4], 60000));
    }
    return USAGE;
}
