/* Survives the loss of memory-mapped pages. A thread that reads a page whose file was truncated, or whose disk failed,
   is sent SIGBUS, which would end the whole process. */

#ifndef HOWL_GUARD_H
#define HOWL_GUARD_H

/* Calls work(arguments). Returns 0, or −1 if it was left in the middle because it read a lost page: it must hold no
   lock, and no memory that only it could free. Any number of threads can do this at the same time. */
int howl_guarded(void (*work)(void *), void *arguments);

#endif
