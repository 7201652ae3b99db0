#define _XOPEN_SOURCE 700 /* for sigaction */

#include "guard.h"

#if defined(_WIN32) /* where a mapped file cannot be truncated */

int howl_guarded(void (*work)(void *), void *arguments)
{
    work(arguments);
    return 0;
}

#else

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>

static _Thread_local volatile sig_atomic_t guarded; /* whether this thread is at work */
static _Thread_local jmp_buf before;                /* its work */
static struct sigaction previous;

/* Leaves a signal that is not ours to whoever had it before, such as Python's faulthandler. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        sigaction(number, &previous, NULL);
        raise(number);
    } else if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else {
        previous.sa_handler(number);
    }
}

static void handle(int number, siginfo_t *info, void *context)
{
    if (!guarded) {
        pass_on(number, info, context);
        return;
    }
    guarded = 0;
    longjmp(before, 1);
}

static void install(void)
{
    /* The signal is not blocked in its handler (SA_NODEFER), so that a jump out of it has nothing to restore. */
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

int howl_guarded(void (*work)(void *), void *arguments)
{
    /* Not when the library is loaded: a faulthandler that is enabled afterwards would be asked first, and would report
       a fatal error. */
    static pthread_once_t installed = PTHREAD_ONCE_INIT;
    pthread_once(&installed, install);
    if (setjmp(before))
        return -1;
    guarded = 1;
    work(arguments);
    guarded = 0;
    return 0;
}

#endif
