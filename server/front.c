/*
 * I1: `submitted_count` is the number of jobs in `submitted`, at most queue_max.
 * I2: a thread ends only when is_stopping is set and both lists are empty, and a job that
 *     submits runs on a thread that looks again afterwards: nothing that was taken is lost.
 */
#include "server/front.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct list {
    struct front_job *first;
    struct front_job **last;
};

struct front {
    int queue_max;
    int thread_count;
    pthread_mutex_t lock; /* covers what follows */
    pthread_cond_t has_work;
    struct list owned;
    struct list submitted; /* each allocated by front_submit */
    int owned_count;
    int submitted_count;
    int is_stopping;
    pthread_t threads[];
};

static void push(struct list *list, struct front_job *job) {
    job->next = NULL;
    *list->last = job;
    list->last = &job->next;
}

static struct front_job *pop(struct list *list) {
    struct front_job *job = list->first;
    list->first = job->next;
    if (list->first == NULL) {
        list->last = &list->first;
    }
    return job;
}

/* The next job, copied to *out; 0: the thread is to end. */
static int take(struct front *front, struct front_job *out) {
    pthread_mutex_lock(&front->lock);
    while (front->owned.first == NULL && front->submitted.first == NULL && !front->is_stopping) {
        pthread_cond_wait(&front->has_work, &front->lock);
    }
    struct front_job *allocated = NULL;
    int is_found = 1;
    if (front->owned.first != NULL) {
        *out = *pop(&front->owned);
        front->owned_count--;
    } else if (front->submitted.first != NULL) {
        allocated = pop(&front->submitted);
        *out = *allocated;
        front->submitted_count--;
    } else {
        is_found = 0;
    }
    pthread_mutex_unlock(&front->lock);
    free(allocated);
    return is_found;
}

static void *run_thread(void *context) {
    struct front *front = context;
    struct front_job job;
    while (take(front, &job)) {
        job.run(job.context);
    }
    return NULL;
}

enum err front_create(int threads, int queue_max, struct front **out) {
    assert(threads > 0 && queue_max > 0);
    struct front *front = calloc(1, sizeof *front + (size_t)threads * sizeof front->threads[0]);
    if (front == NULL) {
        return err_fail(ERR_NOMEM, "%d front threads", threads);
    }
    front->queue_max = queue_max;
    front->owned.last = &front->owned.first;
    front->submitted.last = &front->submitted.first;
    pthread_mutex_init(&front->lock, NULL);
    pthread_cond_init(&front->has_work, NULL);
    for (int i = 0; i < threads; i++) {
        int failure = pthread_create(&front->threads[i], NULL, run_thread, front);
        if (failure != 0) {
            enum err code = err_fail(ERR_NOMEM, "front thread: %s", strerror(failure));
            front_destroy(front);
            return code;
        }
        front->thread_count++;
    }
    *out = front;
    return ERR_OK;
}

void front_destroy(struct front *front) {
    if (front == NULL) {
        return;
    }
    pthread_mutex_lock(&front->lock);
    front->is_stopping = 1;
    pthread_cond_broadcast(&front->has_work);
    pthread_mutex_unlock(&front->lock);
    for (int i = 0; i < front->thread_count; i++) {
        pthread_join(front->threads[i], NULL);
    }
    assert(front->owned.first == NULL && front->submitted.first == NULL);
    pthread_cond_destroy(&front->has_work);
    pthread_mutex_destroy(&front->lock);
    free(front);
}

enum err front_submit(struct front *front, void (*run)(void *context), void *context) {
    struct front_job *job = malloc(sizeof *job);
    if (job == NULL) {
        return err_fail(ERR_NOMEM, "front job");
    }
    *job = (struct front_job){.run = run, .context = context};
    pthread_mutex_lock(&front->lock);
    int is_full = front->submitted_count >= front->queue_max;
    if (!is_full) {
        push(&front->submitted, job);
        front->submitted_count++;
        pthread_cond_signal(&front->has_work);
    }
    pthread_mutex_unlock(&front->lock);
    if (is_full) {
        free(job);
        return err_fail(ERR_FULL, "%d jobs wait already", front->queue_max);
    }
    return ERR_OK;
}

void front_submit_owned(struct front *front, struct front_job *job) {
    pthread_mutex_lock(&front->lock);
    push(&front->owned, job);
    front->owned_count++;
    pthread_cond_signal(&front->has_work);
    pthread_mutex_unlock(&front->lock);
}

int front_queued(struct front *front) {
    pthread_mutex_lock(&front->lock);
    int count = front->submitted_count + front->owned_count;
    pthread_mutex_unlock(&front->lock);
    return count;
}
