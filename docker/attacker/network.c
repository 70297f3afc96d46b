/* Attacks by the network: what a session may not send, and whom it must not reach. */
#define _GNU_SOURCE
#include "attacker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

enum { PATIENCE = 1500 /* milliseconds; on a bridge an answer takes less than one */, PORT = 7077 };

static void be_patient(int fd)
{
    struct timeval patience = {PATIENCE / 1000, PATIENCE % 1000 * 1000};
    must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), "setsockopt");
    must(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), "setsockopt");
}

/* ---- sockets that nobody needs ---- */

static void echo(int type, const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct icmphdr request = {.type = ICMP_ECHO, .checksum = htons(0xf7ff)};
    char reply[100];
    int fd = (int)must(socket(AF_INET, type, IPPROTO_ICMP), "socket");
    be_patient(fd);
    inet_pton(AF_INET, address, &to.sin_addr);
    must(sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&to, sizeof to), "sendto");
    must(recv(fd, reply, sizeof reply, 0), "recv");
    succeeded("an echo from %s", address);
}

static void raw_socket(const char *address)
{
    echo(SOCK_RAW, address);
}

static void ping_socket(const char *address)
{
    echo(SOCK_DGRAM, address);
}

static void sniff(const char *argument UNUSED)
{
    struct sockaddr_ll all = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct sockaddr_in self = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char packet[2000];
    int fd = (int)must(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL)), "socket");
    be_patient(fd);
    must(bind(fd, (struct sockaddr *)&all, sizeof all), "bind");
    int other = (int)must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    must(sendto(other, "secret", 6, 0, (struct sockaddr *)&self, sizeof self), "sendto");
    must(recv(fd, packet, sizeof packet, 0), "recv");
    succeeded("sees packets that are not its own");
}

static void another_address(const char *address)
{
    struct ifreq request = {.ifr_name = "lo"};
    struct sockaddr_in wanted = {.sin_family = AF_INET};
    int fd = (int)must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    inet_pton(AF_INET, address, &wanted.sin_addr);
    memcpy(&request.ifr_addr, &wanted, sizeof wanted);
    must(ioctl(fd, SIOCSIFADDR, &request), "SIOCSIFADDR");
    inet_pton(AF_INET, "127.0.0.1", &wanted.sin_addr);
    memcpy(&request.ifr_addr, &wanted, sizeof wanted);
    must(ioctl(fd, SIOCSIFADDR, &request), "SIOCSIFADDR");
    succeeded("had the address %s", address);
}

static void tunnel(const char *directory)
{
    char path[100];
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(path, sizeof path, "%s/tun", directory);
    unlink(path);
    must(mknod(path, S_IFCHR | 0600, makedev(10, 200)), "mknod");
    int fd = open(path, O_RDWR | O_CLOEXEC), error = errno;
    unlink(path);
    errno = error;
    must(fd, "opening it");
    must(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
    succeeded("a network interface %s of its own making", request.ifr_name);
}

static void kernel_cipher(const char *argument UNUSED)
{
    struct sockaddr_alg hash = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256"};
    int fd = (int)must(socket(AF_ALG, SOCK_SEQPACKET, 0), "socket");
    must(bind(fd, (struct sockaddr *)&hash, sizeof hash), "bind");
    succeeded("uses the kernel's ciphers");
}

static void hypervisor(const char *argument UNUSED)
{
    must(socket(AF_VSOCK, SOCK_STREAM, 0), "socket");
    succeeded("a socket to the hypervisor of this host");
}

static void server(const char *argument UNUSED)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int fd = (int)must(socket(AF_INET, SOCK_STREAM, 0), "socket"), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    must(bind(fd, (struct sockaddr *)&any, sizeof any), "bind");
    must(listen(fd, 1), "listen");
    succeeded("serves port %d", PORT);
}

/* ---- whom to reach: `ADDRESS,PORT,NAME` ---- */

struct target {
    char address[64], name[128];
    int port;
};

static struct target target_of(const char *argument)
{
    struct target target = {.port = 0};
    sscanf(argument, "%63[^,],%d,%127s", target.address, &target.port, target.name);
    return target;
}

static int connected(const struct target *target, int type)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target->port)};
    int fd = (int)must(socket(AF_INET, type | SOCK_CLOEXEC, 0), "socket");
    be_patient(fd);
    inet_pton(AF_INET, target->address, &to.sin_addr);
    must(connect(fd, (struct sockaddr *)&to, sizeof to), "connect");
    return fd;
}

static size_t receive(int fd, char *text, size_t room)
{
    long n = must(recv(fd, text, room - 1, 0), "recv");
    errno = ECONNRESET;
    if (n == 0) stopped("recv");
    text[n] = 0;
    return (size_t)n;
}

static void say_hello(const char *argument, int type)
{
    char answer[200];
    struct target target = target_of(argument);
    int fd = connected(&target, type);
    must(send(fd, "hello", 5, MSG_NOSIGNAL), "send");
    receive(fd, answer, sizeof answer);
    succeeded("an answer from %s port %d: %s", target.address, target.port, answer);
}

static void reach_by_tcp(const char *argument)
{
    say_hello(argument, SOCK_STREAM);
}

static void reach_by_udp(const char *argument)
{
    say_hello(argument, SOCK_DGRAM);
}

static void connect_only(const char *argument)
{
    struct target target = target_of(argument);
    connected(&target, SOCK_STREAM);
    succeeded("connected to %s port %d", target.address, target.port);
}

static size_t put(unsigned char *to, size_t at, const void *from, size_t n)
{
    memcpy(to + at, from, n);
    return at + n;
}

static size_t put_number(unsigned char *to, size_t at, size_t number)
{
    to[at] = (unsigned char)(number >> 8);
    to[at + 1] = (unsigned char)number;
    return at + 2;
}

/* A TLS client's first message that asks for a server's name (RFC 8446, 4.1.2; RFC 6066, 3). */
static void reach_by_tls(const char *argument)
{
    unsigned char hello[400];
    char answer[200];
    struct target target = target_of(argument);
    size_t name = strlen(target.name), extensions = name ? name + 9 : 0, body = 2 + 32 + 1 + 4 + 2 + 2 + extensions, at;
    at = put(hello, 0, "\x16\3\1", 3);
    at = put_number(hello, at, body + 4);
    at = put(hello, at, "\1\0", 2);
    at = put_number(hello, at, body);
    at = put(hello, at, "\3\3", 2);
    memset(hello + at, 7, 32);
    at = put(hello, at + 32, "\0\0\2\x13\1\1\0", 7);
    at = put_number(hello, at, extensions);
    if (name) {
        at = put_number(hello, at, 0);
        at = put_number(hello, at, name + 5);
        at = put_number(hello, at, name + 3);
        at = put(hello, at, "\0", 1);
        at = put_number(hello, at, name);
        at = put(hello, at, target.name, name);
    }
    int fd = connected(&target, SOCK_STREAM);
    must(send(fd, hello, at, MSG_NOSIGNAL), "send");
    receive(fd, answer, sizeof answer);
    succeeded("an answer from %s port %d for %s: %s", target.address, target.port, name ? target.name : "no name", answer);
}

static size_t question(unsigned char *to, const char *name)
{
    size_t at = put(to, 0, "\x12\x34\1\0\0\1\0\0\0\0\0\0", 12);
    while (*name) {
        size_t label = strcspn(name, ".");
        to[at] = (unsigned char)label;
        at = put(to, at + 1, name, label);
        name += label + (name[label] == '.');
    }
    return put(to, at, "\0\0\1\0\1", 5);
}

static void ask(const char *argument, int type)
{
    unsigned char message[512];
    struct target target = target_of(argument);
    int fd = connected(&target, type), framed = type == SOCK_STREAM ? 2 : 0;
    size_t n = question(message + framed, target.name);
    if (framed) put_number(message, 0, n);
    must(send(fd, message, n + (size_t)framed, MSG_NOSIGNAL), "send");
    n = receive(fd, (char *)message, sizeof message);
    errno = EHOSTUNREACH;
    if (n < 12 + (size_t)framed || message[framed + 3] & 15) stopped("the question");
    succeeded("%s:%d was told %s", target.address, target.port, target.name);
}

static void ask_by_udp(const char *argument)
{
    ask(argument, SOCK_DGRAM);
}

static void ask_by_tcp(const char *argument)
{
    ask(argument, SOCK_STREAM);
}

static void abstract_socket(const char *name)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    memcpy(to.sun_path + 1, name, length);
    int fd = (int)must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    must(connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)), "connect");
    succeeded("speaks with a program of the host by a socket without a file");
}

_Noreturn void serve(int port)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char text[100];
    if (bind(fd, (struct sockaddr *)&any, sizeof any) < 0 || listen(fd, 10) < 0) exit(1);
    for (;;) {
        int connection = accept(fd, NULL, NULL);
        if (recv(connection, text, sizeof text, 0) > 0) send(connection, "a session", 9, MSG_NOSIGNAL);
        close(connection);
    }
}

/* REDY with a terminal, as docs/gate.md has it, of a version below 256. */
_Noreturn void pretend(const char *path, int version)
{
    if (fork() == 0) {
        const unsigned char ready[12] = {'R', 'E', 'D', 'Y', 0, 0, 0, 4, 0, 0, 0, (unsigned char)version};
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        union {
            struct cmsghdr head;
            char room[CMSG_SPACE(sizeof(int))];
        } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
        struct iovec part = {(void *)ready, sizeof ready};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
        int terminal = posix_openpt(O_RDWR | O_NOCTTY), fd = socket(AF_UNIX, SOCK_STREAM, 0);
        memcpy(CMSG_DATA(&control.head), &terminal, sizeof terminal);
        strncpy(to.sun_path, path, sizeof to.sun_path - 1);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) sendmsg(fd, &message, MSG_NOSIGNAL);
    }
    for (;;) pause();
}

const struct attack network_attacks[] = {
    {"raw-socket", raw_socket},
    {"ping-socket", ping_socket},
    {"sniff", sniff},
    {"another-address", another_address},
    {"tunnel", tunnel},
    {"kernel-cipher", kernel_cipher},
    {"hypervisor", hypervisor},
    {"server", server},
    {"unlisted-site", reach_by_tls},
    {"tls-without-a-name", reach_by_tls},
    {"other-tenant", reach_by_tls},
    {"private-address", reach_by_tls},
    {"unlisted-port", reach_by_tcp},
    {"other-port", reach_by_tcp},
    {"metadata-service", reach_by_tcp},
    {"host-port", reach_by_tcp},
    {"another-session", reach_by_tcp},
    {"host-loopback", connect_only},
    {"datagrams", reach_by_udp},
    {"foreign-resolver", ask_by_udp},
    {"foreign-resolver-by-tcp", ask_by_tcp},
    {"names-as-messages", ask_by_udp},
    {"look-up", ask_by_udp},
    {"echo-outside", raw_socket},
    {"abstract-socket", abstract_socket},
    {NULL, NULL},
};
